"""Candidates sharded over eight devices score as on one: the real objective, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = """
import json, sys
from dataclasses import replace
from pathlib import Path
import jax, numpy as np
from rich.console import Console
from experiments.recipes import RECIPES
from experiments.run_config import PromptConfig
from experiments.training import starting_runner
from hosts.weights import load_host

mode, model, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
config = RECIPES["pocket"]
config = replace(
    config,
    use=replace(config.use, mode=mode),
    search=replace(config.search, population=8),
    prompts=PromptConfig(2, 2, 2, 2, 2, 0, 2),
    stages=(replace(config.stages[0], length=128),),
    model_devices=model,
)
host = load_host("pocket")
runner = starting_runner(config, host, folder, Console(quiet=True))
rng = np.random.default_rng(0)
evolved = runner.memory.params.evolved
population = jax.tree.map(lambda x: rng.normal(size=(8, *x.shape)).astype(np.float32), evolved)
outcome, exact, grade = runner.score(population, "train", [0, 1])
print(json.dumps([len(jax.devices()), outcome.grade.tolist(), outcome.kept.tolist(), grade.tolist()]))
"""


def scored(mode: str, devices: int, model: int, folder: Path) -> tuple[int, list[np.ndarray]]:
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    command = [sys.executable, "-c", PROGRAM, mode, str(model), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    count, *arrays = json.loads(result.stdout.splitlines()[-1])
    return count, [np.array(x) for x in arrays]


@pytest.mark.parametrize("mode", ["recorded", "streaming"])
def test_eight_devices_score_as_one(mode: str, tmp_path: Path) -> None:
    one, expected = scored(mode, 1, 1, tmp_path / "one")
    eight, got = scored(mode, 8, 2 if mode == "recorded" else 1, tmp_path / "eight")
    assert (one, eight) == (1, 8)
    assert np.ptp(expected[0]) > 0
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
