"""A memory survives the disk exactly; anything odd on disk is an error that names it."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import namm
from namm.config import MemoryConfig, ScorerConfig, from_json, to_json
from namm.policies import POLICIES
from tests.random_host import random_memory


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return namm.save(random_memory(3, MemoryConfig(("recency", "spectrum", "norms"))), tmp_path / "memory")


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


def edited(path: Path, **changes) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version"),
        ({"extra": 1}, "extra"),
        ({"provenance": ...}, "provenance"),
        ({"memory": {}}, "missing fields"),
        ({"name": 3}, "name"),
    ],
)
def test_bad_config(saved: Path, changes: dict, message: str) -> None:
    edited(saved / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        namm.load(saved)


@pytest.mark.parametrize("field", ["interval", "features", "scorer"])
def test_a_foreign_value_names_its_field(saved: Path, field: str) -> None:
    memory = json.loads((saved / "config.json").read_text())["memory"]
    memory[field] = {"interval": 100, "features": ["smell"], "scorer": 5}[field]
    edited(saved / "config.json", memory=memory)
    with pytest.raises(ValueError, match=field):
        namm.load(saved)


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "dtype", "nan", "truncated", "garbage", "huge header"])
def test_damaged_weights(saved: Path, damage: str) -> None:
    path = saved / "memory.safetensors"
    arrays = load_file(path)
    name = next(iter(arrays))
    if damage == "missing":
        del arrays[name]
    elif damage == "extra":
        arrays["more"] = np.zeros(3, np.float32)
    elif damage == "shape":
        arrays[name] = np.zeros((3, 3), np.float32)
    elif damage == "dtype":
        arrays[name] = arrays[name].astype(np.float16)
    elif damage == "nan":
        arrays[name] = arrays[name] * np.nan
    save_file(arrays, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "garbage":
        path.write_bytes(b"not a tensor file at all")
    elif damage == "huge header":
        path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ValueError, match=r"memory\.safetensors"):
        namm.load(saved)


def test_missing_files(saved: Path) -> None:
    (saved / "memory.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"memory\.safetensors"):
        namm.load(saved)


def test_a_policy_without_weights_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to save"):
        namm.save(namm.load("keydiff"), tmp_path / "x")


@pytest.mark.parametrize("interval", [0, 8, 100])
def test_interval_must_hold_whole_hops(interval: int) -> None:
    with pytest.raises(ValueError, match=r"interval is .*16"):
        MemoryConfig(interval=interval)
