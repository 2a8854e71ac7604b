"""Sharded evaluation equals that of one device: 8 forced CPU devices, and two processes on the loopback address."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from evolve.mesh import check_population, make_mesh, shard_population, start_processes

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("mesh_program.py")


def start(devices, model, **variables):
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, str(PROGRAM), str(model)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def report(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    # the collectives of several processes write to the same stream
    return json.loads([line for line in output.splitlines() if line.startswith("{")][-1])


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def single():
    return report(start(1, 1))


@pytest.mark.parametrize(("model", "shards"), [(1, 8), (2, 4)])
def test_eight_devices_give_the_result_of_one(single, model, shards):
    eight = report(start(8, model))
    assert (eight["devices"], eight["shards"]) == (8, shards)
    np.testing.assert_allclose(eight["score"], single["score"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(eight["kept"], single["kept"], rtol=1e-6)


def test_two_processes_give_the_result_of_one(single):
    common = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    processes = [start(2, 1, **common, JAX_PROCESS_ID=str(index)) for index in range(2)]
    for result in [report(process) for process in processes]:
        assert (result["devices"], result["shards"], result["agreed"]) == (4, 4, True)
        np.testing.assert_allclose(result["score"], single["score"], rtol=1e-5, atol=1e-6)


def test_nothing_is_retraced():
    traces = []

    def evaluate(population):
        traces.append(1)
        return population.sum(axis=1)

    run = shard_population(evaluate, make_mesh(devices=jax.devices()[:1]))
    for seed in range(3):
        population = np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)
        np.testing.assert_allclose(run(population), population.sum(axis=1), rtol=1e-5)
    assert len(traces) == 1


def test_bad_shapes_and_settings_are_errors(monkeypatch):
    mesh = jax.sharding.AbstractMesh((4, 1), ("pop", "model"))
    with pytest.raises(ValueError, match="28 or 32"):
        check_population(30, mesh)
    with pytest.raises(ValueError, match="divisor"):
        make_mesh(model=7)
    assert start_processes() is False
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES"):
        start_processes()
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(ValueError, match="all three"):
        start_processes()
    with pytest.raises(ValueError, match="expected 0 to 1"):
        start_processes("127.0.0.1:1", 2, 5)
