"""The memories that ship load by name and come with a card and their results."""

from pathlib import Path

import pytest

import namm

ROOT = Path(__file__).parents[2]


def test_nine_memories_ship() -> None:
    kinds = ("general", "heads", "mixed", "ruler", "shares", "threshold")
    names = {"contents", "pocket", "smollm2", *(f"smollm2-{kind}" for kind in kinds)}
    assert names <= set(namm.shipped())


@pytest.mark.parametrize("name", namm.shipped())
def test_shipped_memory(name: str) -> None:
    memory = namm.load(name)
    made = memory.provenance
    assert made["commit"] and (made["generations"] > 0 or made.get("fit", 0) > 0 or made["descent"] > 0)
    assert (ROOT / "namm" / "pretrained" / name / "README.md").read_text().startswith(f"# {name}\n")
    assert (ROOT / "experiments" / "results" / name / "table.csv").is_file()
