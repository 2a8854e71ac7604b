"""A memory goes to the hub and comes back; what is not there is told apart from a mistyped folder."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard, ModelHubMixin

import namm
from namm.config import MemoryConfig
from tests.local_hub import stand_in
from tests.random_host import random_memory

ROOT = Path(__file__).parents[2]


def some_memory() -> namm.Memory:
    return random_memory(int(np.random.default_rng().integers(1000)), MemoryConfig(("recency", "norms")))


def assert_same(a: namm.Memory, b: namm.Memory) -> None:
    assert (a.name, a.interval, a.selection, a.provenance) == (b.name, b.interval, b.selection, b.provenance)
    assert jax.tree.structure(a.params) == jax.tree.structure(b.params)
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_array_equal(x, y)


def cached(cache: Path, repo: str, memory: namm.Memory, revision: str = "main") -> None:
    """A repository as the hub's own cache keeps it."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    commit = "0123456789" * 4
    memory.save_pretrained(folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / revision).write_text(commit)


def test_push_and_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in(tmp_path, monkeypatch)
    first, second = some_memory(), some_memory()
    assert isinstance(first, ModelHubMixin)
    assert first.push_to_hub("owner/name") == "https://hub.test/owner/name"
    second.push_to_hub("owner/name", branch="next")
    assert_same(namm.load("owner/name"), first)
    assert_same(namm.load("owner/name", revision="next"), second)
    assert_same(namm.Memory.from_pretrained("owner/name", revision="next"), second)
    assert asked == [("owner/name", None), ("owner/name", "next"), ("owner/name", "next")]
    card = ModelCard.load(tmp_path / "owner" / "name" / "main" / "README.md")
    assert card.data.library_name == "namm" and 'namm.load("owner/name")' in card.text
    (tmp_path / "owner" / "name" / "main" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        namm.load("owner/name")
    with pytest.raises(FileNotFoundError, match=r"owner/name: no such folder in .*'gone' \(OSError: 404: no owner"):
        namm.load("owner/name", revision="gone")


def test_a_policy_makes_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="nothing to save"):
        namm.load("keydiff").push_to_hub("owner/name")
    assert list(tmp_path.iterdir()) == []


def test_the_hubs_own_cache(tmp_path: Path) -> None:
    """The hub's own functions, without a network."""
    memory = some_memory()
    cached(tmp_path, "owner/name", memory)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    assert_same(namm.Memory.from_pretrained("owner/name", **options), memory)
    for name, revision in (("owner/other", None), ("owner/name", "v2")):
        with pytest.raises(FileNotFoundError, match=rf"{name}: no such folder .*check the path.*spelling"):
            namm.Memory.from_pretrained(name, revision=revision, **options)


def test_offline_process(tmp_path: Path) -> None:
    cached(tmp_path, "owner/name", some_memory())
    program = """
import namm
print(namm.load("owner/name").name)
try:
    namm.load("owner/typo")
except FileNotFoundError as error:
    print(error)
"""
    settings = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | settings, cwd=ROOT, capture_output=True, text=True, check=True
    )
    name, error = result.stdout.strip().splitlines()
    assert name == "noise" and error.startswith("owner/typo: no such folder") and "hub did not provide" in error


PATHS = ["runs/a/memory", "./memory", "../memory", "~/memory", "/memory", "memory/", "a b/c", "x/" + "y" * 300, "\0/a"]


@pytest.mark.parametrize("name", PATHS)
def test_paths_are_no_hub_ids(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a hub id like owner/name; check the path"):
        namm.load(name)
    with pytest.raises(FileNotFoundError, match="smollm2: no such folder, and not a hub id"):
        namm.Memory.from_pretrained("smollm2")
    assert asked == []


def test_a_folder_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in(tmp_path / "hub", monkeypatch)
    monkeypatch.chdir(tmp_path)
    memory = some_memory()
    memory.save_pretrained("owner/name")
    assert_same(namm.load("owner/name"), memory)
    assert asked == []
    with pytest.raises(ValueError, match="is a folder here; revisions are of hub ids"):
        namm.load("owner/name", revision="main")
    with pytest.raises(ValueError, match="is a file; a memory is a folder"):
        namm.load("owner/name/config.json")
    for name in ("smollm2", "keydiff"):
        with pytest.raises(ValueError, match="is no hub id"):
            namm.load(name, revision="main")
