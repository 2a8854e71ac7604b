"""The whole loop: it climbs, resumes bit for bit after any end, and compiles nothing on the way."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from loop_program import CURRICULUM, START, digest, make_evaluate, search, validate

from evolve.loop import Evaluation, LoopConfig, data_seed, run

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("loop_program.py")


def start(folder, pause=0.0, algorithm="sep-cma-es", **variables):
    command = [sys.executable, str(PROGRAM), str(folder), str(pause), algorithm]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **variables}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output_of(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    # the collectives of several processes write to the same stream
    return json.loads([line for line in output.splitlines() if line.startswith("{")][-1])


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_clock(records):
    return [{k: v for k, v in r.items() if k not in ("seconds", "candidates_per_second")} for r in records]


class Stop(Exception):
    pass


def stopping(at, error):
    """An evaluation that fails at generation `at`."""
    evaluate = make_evaluate()

    def failing(population, context):
        if context.generation == at:
            raise error
        return evaluate(population, context)

    return failing


def test_a_whole_run(tmp_path):
    result = search(tmp_path)
    assert (result.stopped, result.state.generation, result.state.stage) == ("finished", 8, 1)
    assert [r["generation"] for r in result.history] == list(range(9))
    assert [r["stage"] for r in result.history[1:]] == ["near"] * 4 + ["far"] * 4
    validated = {r["generation"]: r["validation_stage"] for r in result.history if "validation" in r}
    assert validated == {0: "near", 2: "near", 4: "far", 6: "far", 8: "far"}
    assert result.history[-1]["validation"] > result.history[4]["validation"]
    far = [r["validation"] for r in result.history if r.get("validation_stage") == "far"]
    assert result.best_value == max(far)
    assert validate(result.best_mean, _context_of(8))["score"] == result.best_value
    assert lines_of(tmp_path) == result.history
    assert {"kept", "noise", "sigma", "candidates_per_second", "best_fitness"} <= result.history[3].keys()


def _context_of(generation):
    from evolve.loop import Context

    return Context(generation, CURRICULUM.stage_at(generation), 0)


@pytest.mark.parametrize("algorithm", ["sep-cma-es", "iso-cma-es", "cma-es", "snes", "open-es", "pgpe"])
@pytest.mark.parametrize("at", [3])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, algorithm, at):
    whole = search(tmp_path / "whole", algorithm=algorithm)
    with pytest.raises(Stop):
        search(tmp_path / "run", algorithm=algorithm, evaluate=stopping(at, Stop()))
    resumed = search(tmp_path / "run", algorithm=algorithm)
    assert digest(resumed) == digest(whole)
    assert without_clock(lines_of(tmp_path / "run")) == without_clock(lines_of(tmp_path / "whole"))


def test_killed_at_any_moment_and_resumed_equals_uninterrupted(tmp_path):
    """kill -9 at three moments of one run; each loses at most the generation at work and the one being written."""
    folder = tmp_path / "run"
    for target in (1, 3, 6):
        process = start(folder, pause=0.3)
        while (
            not (folder / "metrics.jsonl").exists()
            or len((folder / "metrics.jsonl").read_text().splitlines()) <= target
        ):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.02)
        process.kill()
        process.communicate()
        complete = [int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]
        assert max(complete) >= target - 1
    resumed = output_of(start(folder))
    assert resumed == json.loads(json.dumps(digest(search(tmp_path / "whole"))))
    assert [record["generation"] for record in lines_of(folder)] == list(range(9))


def test_two_processes_search_as_one(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    common = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    processes = [start(tmp_path / "two", **common, JAX_PROCESS_ID=str(index)) for index in range(2)]
    first, second = [output_of(process) for process in processes]
    assert first == second
    one = digest(search(tmp_path / "one"))
    for two_leaf, one_leaf in zip(first["state"], one["state"], strict=True):
        np.testing.assert_allclose(two_leaf, one_leaf, rtol=1e-4, atol=1e-5)
    assert [record["generation"] for record in lines_of(tmp_path / "two")] == list(range(9))


def test_interrupt_saves_and_says_how_to_go_on(tmp_path, capsys):
    from rich.console import Console

    console = Console(width=500)
    result = search(tmp_path, evaluate=stopping(3, KeyboardInterrupt()), checkpoint_every=100, console=console)
    assert (result.stopped, result.state.generation) == ("interrupted", 3)
    printed = capsys.readouterr().out
    assert "generation 3/8 (near)" in printed and "kept 25.0%" in printed and "min left" in printed
    assert "Run the same command" in printed
    assert digest(search(tmp_path)) == digest(search(tmp_path / "whole"))


def test_time_limit_ends_cleanly(tmp_path):
    result = search(tmp_path, time_limit=1e-9)
    assert (result.stopped, result.state.generation) == ("time limit", 1)
    assert digest(search(tmp_path))["generation"] == 8


def test_a_longer_run_goes_on_and_a_finished_one_ends_at_once(tmp_path):
    search(tmp_path, generations=5)
    again = search(tmp_path, generations=5, evaluate=stopping(5, Stop()))
    assert (again.state.generation, len(again.history)) == (5, 6)
    assert search(tmp_path, generations=10).state.generation == 10


def test_a_run_that_ended_with_its_stage_goes_on_into_the_next_as_if_it_had_not(tmp_path):
    search(tmp_path / "parts", generations=4)
    parts = search(tmp_path / "parts")
    assert digest(parts) == digest(search(tmp_path / "whole"))
    assert [r["validation_stage"] for r in parts.history if r["generation"] == 4] == ["near", "far"]


def test_data_is_fresh_each_generation_and_a_function_of_seed_and_generation():
    seeds = [data_seed(seed, generation) for seed in range(3) for generation in range(50)]
    assert len(set(seeds)) == 150
    assert seeds == [data_seed(seed, generation) for seed in range(3) for generation in range(50)]


def test_nothing_compiles_after_the_first_generations(tmp_path, caplog):
    search(tmp_path / "warm", generations=3)
    evaluate = make_evaluate()
    compiled = {}

    def counting(population, context):
        compiled[context.generation] = len([r for r in caplog.records if r.getMessage().startswith("Compiling")])
        return evaluate(population, context)

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        search(tmp_path / "run", evaluate=counting)
    assert compiled[7] == compiled[2] > 0


def test_a_generation_that_says_nothing_moves_nothing(tmp_path):
    def flat(population, context):
        return Evaluation(np.ones((8, 1, 5)), np.ones((1, 5)))

    result = search(tmp_path, evaluate=flat)
    jax.tree.map(np.testing.assert_array_equal, result.mean, START)


def test_bad_arguments_are_errors(tmp_path):
    for options in ({"generations": 0}, {"keep": 1}, {"time_limit": 0.0}, {"seed": -1}, {"validate_every": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            LoopConfig(**options)
    search(tmp_path, generations=1)
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        search(tmp_path, generations=1, seed=1)
    with pytest.raises(ValueError, match="score"):
        run(START, make_evaluate(), CURRICULUM, tmp_path / "new", validate=lambda mean, context: {"accuracy": 1.0})
