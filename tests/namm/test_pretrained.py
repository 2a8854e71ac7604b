"""The memories that ship load by name and come with a card and their results."""

from pathlib import Path

import pytest

import namm

ROOT = Path(__file__).parents[2]


def test_eight_memories_ship() -> None:
    kinds = ("general", "heads", "mixed", "ruler", "threshold")
    names = {"contents", "pocket", "smollm2", *(f"smollm2-{kind}" for kind in kinds)}
    assert names <= set(namm.shipped())


@pytest.mark.parametrize("name", namm.shipped())
def test_shipped_memory(name: str) -> None:
    memory = namm.load(name)
    assert memory.provenance["commit"] and (memory.provenance["generations"] > 0 or memory.provenance["fit"] > 0)
    assert (ROOT / "namm" / "pretrained" / name / "README.md").read_text().startswith(f"# {name}\n")
    assert (ROOT / "experiments" / "results" / name / "table.csv").is_file()
