"""The card of a saved memory says what the memory is, and its example runs (tests/hosts/pytorch/test_docs.py)."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import namm
from tests.random_host import random_memory


@pytest.mark.parametrize("name", namm.shipped())
def test_card(name: str, tmp_path: Path) -> None:
    memory = namm.load(name)
    memory.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "memory.safetensors", "README.md"}
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "namm" and "kv-cache" in (card.data.tags or [])
    counts = {"contents": 9, "smollm2": 34, "pocket": 5476}
    counts |= {"smollm2-heads": 810, "smollm2-mixed": 30510, "smollm2-ruler": 1170}
    counts |= {"smollm2-threshold": 1170, "smollm2-general": 30600, "smollm2-shares": 30600}
    made = memory.provenance
    rows = {
        "scorer": f"{memory.policy.config.scorer.kind}, {counts[name]} evolved parameters",
        "feature blocks": ", ".join(memory.policy.config.features),
        "relative to": "all tokens read" if name not in ("smollm2", "pocket") else "the tokens held",
        "stages": f"tasks {', '.join(made['stages'][0]['tasks'])}, length",
        **{key: str(made[key]).strip("[]") for key in ("host", "mode", "budget", "generations", "seed", "commit")},
    }
    for key, value in rows.items():
        assert f"\n| {key} | {value}" in card.text


def test_only_generated_cards_are_replaced(tmp_path: Path) -> None:
    first = replace(random_memory(0, namm.MemoryConfig()), provenance={"seed": 1})
    first.save_pretrained(tmp_path)
    replace(first, provenance={"seed": 2}).save_pretrained(tmp_path)
    assert "| seed | 2 |" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("# my own words\n")
    first.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# my own words\n"


def test_no_value_breaks_the_table(tmp_path: Path) -> None:
    memory = replace(random_memory(0, namm.MemoryConfig()), provenance={"host": "a|b\n# not a title", "budget": None})
    memory.save_pretrained(tmp_path)
    assert "| host | a\\|b # not a title |\n| budget | None |\n" in (tmp_path / "README.md").read_text()
