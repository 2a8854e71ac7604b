"""A memory survives the disk exactly (damage: test_folder.py); what could not be loaded again is not saved."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import namm
from namm.config import MemoryConfig, ScorerConfig, from_json, to_json
from namm.contract import Parameters
from namm.policies import POLICIES
from namm.selection import SelectionConfig
from tests.random_host import random_memory


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    random_memory(3, MemoryConfig(("recency", "spectrum", "norms"))).save_pretrained(tmp_path / "memory")
    return tmp_path / "memory"


def test_round_trip(saved: Path) -> None:
    before = random_memory(3, MemoryConfig(("recency", "spectrum", "norms")))
    after = namm.load(saved)
    assert after.policy.config == before.policy.config
    assert (after.name, after.interval, after.selection) == (before.name, before.interval, before.selection)
    for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["bam", "linear", "mlp"])
def test_config_goes_to_json_and_back(kind) -> None:
    config = MemoryConfig(scorer=ScorerConfig(kind, hidden=7), interval=64)
    assert from_json(MemoryConfig, json.loads(json.dumps(to_json(config)))) == config


def test_names_of_policies_load() -> None:
    for name in POLICIES:
        assert namm.load(name).selection.threshold is None
    with pytest.raises(ValueError, match="keydiff"):
        namm.load("no-such-policy")


def spoilt(memory: namm.Memory, damage: str) -> namm.Memory:
    if damage == "policy":
        return namm.load("keydiff")
    if damage == "nan":
        return replace(memory, params=jax.tree.map(lambda x: x * np.nan, memory.params))
    if damage == "variance":
        frozen = {**memory.params.frozen, "variance": -memory.params.frozen["variance"]}
        return replace(memory, params=Parameters(memory.params.evolved, frozen))
    if damage == "shape":
        return replace(memory, params=jax.tree.map(lambda x: x[None], memory.params))
    value = {"type": np.float32(1), "infinite": float("inf"), "circle": []}[damage]
    if damage == "circle":
        value.append(value)
    return replace(memory, provenance={"seed": value})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("policy", "keydiff is a training-free policy; it has nothing to save"),
        ("nan", "not finite"),
        ("variance", "negative"),
        ("shape", "expected F32"),
        ("type", "not plain JSON"),
        ("infinite", "not plain JSON"),
        ("circle", "not plain JSON"),
    ],
)
def test_what_cannot_be_loaded_is_not_saved(damage: str, message: str, saved: Path) -> None:
    """And what lies in the folder stays as it was."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(ValueError, match=message):
        spoilt(namm.load(saved), damage).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


@pytest.mark.parametrize(("budgets", "sets"), [("layer", ()), ("head", ()), ("head", (2,))])
def test_budgets_ask_for_sets_of_parameters(budgets: str, sets: tuple[int, ...]) -> None:
    selection = SelectionConfig(threshold=None, budgets=budgets)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"selection.budgets is '{budgets}' and scorer.sets"):
        MemoryConfig(scorer=ScorerConfig(sets=sets), selection=selection)


@pytest.mark.parametrize("interval", [0, 8, 100])
def test_interval_must_hold_whole_hops(interval: int) -> None:
    with pytest.raises(ValueError, match=r"interval is .*16"):
        MemoryConfig(interval=interval)
