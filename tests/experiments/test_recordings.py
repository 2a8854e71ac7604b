"""Records of prompts in memory and on disk: the same again, under a limit, never stale."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.objective import UseConfig, budgets
from experiments.prompts import PromptSource, TaskMix
from experiments.record_disk import RecordDisk, describe
from experiments.recordings import RecordPool, stack, stack_prompts
from experiments.tasks.encoding import Batch
from hosts.stream import make_engine
from hosts.weights import load_host
from namm.artefact import make
from namm.config import MemoryConfig
from namm.selection import SelectionConfig
from tests.tiny import save_host, tiny_llama

pytestmark = pytest.mark.usefixtures("compile_quickly")
RNG = np.random.default_rng()


def record(size: int = 5) -> dict[str, np.ndarray]:
    return {"keys": RNG.normal(size=(size, 3)).astype(np.float32), "seen": np.int32(size), "valid": RNG.random(4) < 0.5}


STRUCTURE = jax.tree.structure(record())


def prompt() -> tuple[np.ndarray]:
    return (RNG.integers(0, 1000, 20, np.int32),)


def same(a, b) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
        assert np.asarray(x).dtype == np.asarray(y).dtype


def test_what_was_put_is_found_by_prompt_and_reader(tmp_path: Path) -> None:
    disk, asked, other, kept = RecordDisk(tmp_path, 2**20, "a"), prompt(), prompt(), record()
    assert disk.get(asked, STRUCTURE) is None
    disk.put(asked, kept)
    same(disk.get(asked, STRUCTURE), kept)
    assert disk.get(other, STRUCTURE) is None
    assert RecordDisk(tmp_path, 2**20, "b").get(asked, STRUCTURE) is None
    same(RecordDisk(tmp_path, 2**20, "a").get(asked, STRUCTURE), kept)


def test_bfloat16_survives(tmp_path: Path) -> None:
    disk, asked = RecordDisk(tmp_path, 2**20, "a"), prompt()
    kept = {"keys": np.asarray(jax.numpy.asarray(RNG.normal(size=7), "bfloat16"))}
    disk.put(asked, kept)
    same(disk.get(asked, jax.tree.structure(kept)), kept)


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    asked = [prompt() for _ in range(4)]
    disk = RecordDisk(tmp_path, 2**30, "a")
    for age, one in enumerate(asked[:3]):
        disk.put(one, record(1000))
        os.utime(disk.path(one), (age, age))
    disk.limit = int(3.5 * disk.path(asked[0]).stat().st_size)
    assert disk.get(asked[0], STRUCTURE) is not None  # used now
    disk.put(asked[3], record(1000))
    assert [disk.get(one, STRUCTURE) is None for one in asked] == [False, True, False, False]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= disk.limit


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.99])
def test_a_damaged_file_is_made_again(tmp_path: Path, share: float) -> None:
    disk, asked = RecordDisk(tmp_path, 2**20, "a"), prompt()
    disk.put(asked, record())
    whole = disk.path(asked).read_bytes()
    disk.path(asked).write_bytes(whole[: int(share * len(whole))])
    assert disk.get(asked, STRUCTURE) is None
    assert not list(tmp_path.iterdir())
    disk.put(asked, kept := record())
    same(disk.get(asked, STRUCTURE), kept)


def test_the_reader_is_settings_and_weights() -> None:
    params = {"a": RNG.normal(size=(3, 4)).astype(np.float32)}
    told = describe(1, "x", params=params)
    assert told == describe(1, "x", params={"a": params["a"].copy()})
    assert told != describe(2, "x", params=params)
    changed = params["a"].copy()
    changed[2, 3] = np.nextafter(changed[2, 3], 2)
    assert told != describe(1, "x", params={"a": changed})


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> PromptSource:
    model = tiny_llama(max_position_embeddings=1024, num_hidden_layers=1)
    return PromptSource(
        load_host(str(save_host(tmp_path_factory.mktemp("host"), model))), TaskMix(("niah-single", "passkey"), 600)
    )


def test_a_pool_reads_a_prompt_once_for_all_runs(
    source: PromptSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMM_CACHE", str(tmp_path))
    memory = make("x", MemoryConfig(("spectrum", "norms"), selection=SelectionConfig(threshold=None)))
    engine = make_engine(source.host.spec, memory.policy, memory.selection, 600)
    reads = []

    def pool(gib: float) -> RecordPool:
        made = RecordPool(engine, source.host.params, source, chunk=128, size=8, batch=2, gib=gib)
        read = made._record
        monkeypatch.setattr(made, "_record", lambda *args: reads.append(args) or read(*args))
        return made

    first = pool(1.0).get("train", [0, 1, 2])
    assert len(reads) == 2
    again = pool(1.0).get("train", [2, 0, 1, 3])
    assert len(reads) == 3  # sample 3 alone
    same(first, [again[1], again[2], again[0]])
    same(pool(0.0).get("train", [0, 1, 2]), first)
    assert len(reads) == 5


@pytest.mark.parametrize("gib", [0.0, 1.0])
def test_a_pool_for_streaming_keeps_answers_and_no_streams(
    gib: float, source: PromptSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMM_CACHE", str(tmp_path))
    memory = make("x", MemoryConfig(("spectrum", "norms"), selection=SelectionConfig(threshold=None)))
    settings = (make_engine(source.host.spec, memory.policy, memory.selection, 600), source.host.params, source, 128, 8)
    whole = RecordPool(*settings, batch=2).get("train", [0, 1, 2])
    for _ in range(2):  # the second finds them on the disk, where there is one
        bare = RecordPool(*settings, batch=2, gib=gib, streams=False).get("train", [0, 1, 2])
        assert [one.stream for one in bare] == [None] * 3
        jax.tree.map(np.testing.assert_array_equal, bare, [one._replace(stream=None) for one in whole])
    jax.tree.map(np.testing.assert_array_equal, stack_prompts(bare), stack(whole)[1])
    same(RecordPool(*settings, batch=2, gib=gib).get("train", [0, 1, 2]), whole)


def test_the_samples_of_a_task_take_the_budgets_in_turn(source: PromptSource) -> None:
    use, selection = UseConfig(budget=(0.5, 0.25, 0.125)), SelectionConfig(threshold=None)
    prompt: Batch = source.batch("train", [0, 1, 2, 3])
    kept = use.kept(source.widths.context)
    assert kept == UseConfig(budget=0.5).kept(source.widths.context)
    found = budgets(use, prompt, kept, selection, [4, 0, 2, 1])
    alone = [budgets(UseConfig(budget=b), prompt, kept, selection) for b in (0.25, 0.5, 0.125, 0.25)]
    np.testing.assert_array_equal(found, [row[i] for i, row in enumerate(alone)])
    with pytest.raises(ValueError, match="budget is empty"):
        UseConfig(budget=())
    with pytest.raises(ValueError, match=r"budget is 1\.5"):
        budgets(UseConfig(budget=(0.5, 1.5)), prompt, kept, selection)
