"""Checkpoints come back bit for bit, or the one before does; nothing saved is ever lost."""

import functools
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evolve.checkpoints import CheckpointError, Checkpoints, RunState
from evolve.strategy import SearchConfig, make_strategy


@functools.cache
def strategy_of(algorithm, dim):
    """Compiled once for all tests."""
    return make_strategy(SearchConfig(algorithm), {"w": jnp.zeros(dim)})


def run_state(generation, algorithm="sep-cma-es", dim=50, best=0):
    like = {"w": jnp.asarray(np.random.default_rng(generation).normal(size=dim), jnp.float32)}
    strategy = strategy_of(algorithm, dim)
    state = strategy.init(jax.random.key(0), like)
    population, state = strategy.ask(jax.random.key(generation), state)
    state, _ = strategy.tell(population, np.arange(32.0), state)
    return RunState(state, jax.random.key_data(jax.random.key(7)), like, 0.1 * generation - 1e-17, best, generation, 1)


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)
    types = [[(type(x), getattr(x, "dtype", None)) for x in jax.tree.leaves(tree)] for tree in (left, right)]
    assert types[0] == types[1]


def filled(folder, generations=3, **options):
    checkpoints = Checkpoints(folder, {"seed": 1}, **options)
    for generation in range(1, generations + 1):
        checkpoints.save(run_state(generation))
    checkpoints.close()


@pytest.mark.parametrize("algorithm", ["sep-cma-es", "iso-cma-es", "cma-es", "snes", "open-es", "pgpe"])
def test_round_trip_is_exact(tmp_path, algorithm):
    checkpoints = Checkpoints(tmp_path, {})
    assert checkpoints.restore(run_state(0, algorithm)) is None
    saved = run_state(5, algorithm)._replace(best_value=-np.inf)
    checkpoints.save(saved)
    checkpoints.wait()
    equal(checkpoints.restore(run_state(0, algorithm)), saved)
    checkpoints.close()


def test_keeps_the_last_and_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, keep=2)
    for generation in range(7):
        checkpoints.save(run_state(generation, best=min(generation, 3)))
    checkpoints.wait()
    assert checkpoints.steps() == [3, 5, 6]
    checkpoints.close()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path):
    path.write_bytes(np.random.default_rng(0).bytes(max(path.stat().st_size, 8)))


# When one array cannot be read, the reader's other reads finish after its event loop has closed.
late_reads = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@late_reads
@pytest.mark.parametrize("damage", [truncate, garble, Path.unlink])
def test_damage_to_any_file_falls_back_or_changes_nothing(tmp_path, damage):
    """Files of the newest checkpoint in turn: metadata, the index and the data of the arrays."""
    filled(tmp_path / "whole")
    newest = tmp_path / "whole" / "checkpoints" / "3"
    arrays = max((newest / "arrays").rglob("d/*"), key=lambda path: path.stat().st_size)
    named = ["_CHECKPOINT_METADATA", "meta/metadata", "arrays/_METADATA", "arrays/manifest.ocdbt"]
    files = [*named, arrays.relative_to(newest)]
    fallbacks = 0
    for name in files:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "run")
        damage(tmp_path / "run" / "checkpoints" / "3" / name)
        fallbacks += restored_generation(tmp_path / "run") == 2
    assert fallbacks >= 2


def restored_generation(folder):
    """Restore, check, and save the next generation over the damage."""
    checkpoints = Checkpoints(folder, {"seed": 1})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = checkpoints.restore(run_state(0))
    told = [str(entry.message) for entry in caught if "cannot be read" in str(entry.message)]
    assert (state.generation, len(told)) in [(2, 1), (3, 0)]
    equal(state, run_state(state.generation))
    checkpoints.save(run_state(state.generation + 1))
    checkpoints.wait()
    assert state.generation + 1 in checkpoints.steps()
    checkpoints.close()
    return state.generation


def test_flipped_bits_are_noticed(tmp_path):
    """A checkpoint that can be read but is not what was saved."""
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(run_state(1))
    wrong = run_state(2)
    checkpoints.save(wrong)
    checkpoints.wait()
    meta = tmp_path / "checkpoints" / "2" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace('"generation": 2', '"generation": 9'))
    with pytest.warns(UserWarning, match="damaged"):
        equal(checkpoints.restore(wrong), run_state(1))
    assert (tmp_path / "unreadable" / "2-0").is_dir()
    checkpoints.close()


def test_arrays_of_another_generation_are_noticed(tmp_path):
    """Readable, of the right shape, and wrong."""
    filled(tmp_path, 2)
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "arrays")
    shutil.copytree(tmp_path / "checkpoints" / "1" / "arrays", tmp_path / "checkpoints" / "2" / "arrays")
    checkpoints = Checkpoints(tmp_path, {"seed": 1})
    with pytest.warns(UserWarning, match="damaged"):
        equal(checkpoints.restore(run_state(0)), run_state(1))
    checkpoints.close()


@late_reads
def test_nothing_readable_is_an_error(tmp_path):
    filled(tmp_path, 2)
    for step in (1, 2):
        shutil.rmtree(tmp_path / "checkpoints" / str(step) / "arrays")
    checkpoints = Checkpoints(tmp_path, {"seed": 1})
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="none of the checkpoints"):
        checkpoints.restore(run_state(0))


def test_another_configuration_is_refused(tmp_path):
    Checkpoints(tmp_path, {"search": {"population": 8, "sigma": 0.1}}).close()
    with pytest.raises(ValueError, match=r"search.population: 8 there, 16 now\)"):
        Checkpoints(tmp_path, {"search": {"population": 16, "sigma": 0.1}})


def test_another_shape_is_refused(tmp_path):
    filled(tmp_path, 1)
    with pytest.warns(UserWarning, match="expected"), pytest.raises(CheckpointError):
        Checkpoints(tmp_path, {"seed": 1}).restore(run_state(0, dim=51))


def test_size_is_proportional_to_the_strategy(tmp_path):
    def size(folder, algorithm):
        checkpoints = Checkpoints(folder, {})
        checkpoints.save(run_state(1, algorithm, dim=400))
        checkpoints.close()
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    sizes = {}
    for algorithm in ("iso-cma-es", "sep-cma-es", "cma-es"):
        # the store splits the same state into one file more at times, 2 KB: the smallest of five
        sizes[algorithm] = min(size(tmp_path / f"{algorithm}-{attempt}", algorithm) for attempt in range(5))
    assert sizes["iso-cma-es"] <= sizes["sep-cma-es"] < 40_000 < 4 * 400**2 < sizes["cma-es"]


FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_checkpoints import *
checkpoints = Checkpoints(sys.argv[1], {})
checkpoints.save(run_state(1, dim=20000))
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (30000, resource.RLIM_INFINITY))  # stands for a full disk
try:
    checkpoints.save(run_state(2, dim=20000))
    checkpoints.wait()
except CheckpointError as error:
    print(error)
"""


def test_full_disk_is_a_clear_error_and_loses_nothing(tmp_path):
    here = Path(__file__).parent
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(here)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=here.parents[1])
    assert "is the disk full?" in done.stdout and "generations [1]" in done.stdout, done.stdout + done.stderr
    checkpoints = Checkpoints(tmp_path, {})
    equal(checkpoints.restore(run_state(0, dim=20000)), run_state(1, dim=20000))
    checkpoints.close()
