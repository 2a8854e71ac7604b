"""Devices: a mesh over population and model, candidates sharded over it, several processes.

The same code runs on one CPU, one GPU, several devices of one process, and several processes.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

POP, MODEL = "pop", "model"


def start_processes(address: str | None = None, processes: int | None = None, process: int | None = None) -> bool:
    """Join a run of several processes; call before anything else touches a device. True if there are several.

    Arguments left out come from JAX_COORDINATOR_ADDRESS ("host:port"), JAX_NUM_PROCESSES and JAX_PROCESS_ID. Without
    any of them this is a run of one process.
    """
    address = address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    processes = _integer(processes, "JAX_NUM_PROCESSES")
    process = _integer(process, "JAX_PROCESS_ID")
    given = [address, processes, process]
    if all(value is None for value in given):
        return False
    if address is None or processes is None or process is None:
        raise ValueError(
            f"several processes: got address {address}, number of processes {processes}, process {process}; "
            "expected all three, as arguments or as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID"
        )
    if not 0 <= process < processes:
        raise ValueError(f"process: got {process}, expected 0 to {processes - 1}")
    jax.distributed.initialize(address, processes, process)
    return processes > 1


def _integer(value: int | None, variable: str) -> int | None:
    text = os.environ.get(variable)
    if value is not None or text is None:
        return value
    if not text.isdecimal():
        raise ValueError(f"{variable}: got {text!r}, expected a whole number")
    return int(text)


def make_mesh(model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with axes ("pop", "model") over all devices of all processes, `model` of them holding one host."""
    devices = jax.devices() if devices is None else devices
    if model < 1 or len(devices) % model:
        raise ValueError(f"model: got {model} devices for one host, expected a divisor of the {len(devices)} devices")
    return Mesh(np.array(devices).reshape(-1, model), (POP, MODEL))


def check_population(population: int, mesh: Mesh | AbstractMesh) -> None:
    """A ValueError unless the candidates divide evenly over the mesh."""
    shards = mesh.shape[POP]
    if population % shards:
        below, above = population // shards * shards, (population // shards + 1) * shards
        raise ValueError(
            f"population: got {population}, expected a multiple of the {shards} population shards of the mesh "
            f"(for instance {below or above} or {above})"
        )


def place(tree: PyTree, mesh: Mesh, spec: PartitionSpec | PyTree = PartitionSpec()) -> PyTree:  # noqa: B008
    """Put arrays, equal on every process, on the mesh: replicated, or split by `spec` (one, or a tree of them)."""

    def put(leaf: Any, leaf_spec: PartitionSpec) -> jax.Array:
        sharding = NamedSharding(mesh, leaf_spec)
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if isinstance(spec, PartitionSpec):
        return jax.tree.map(lambda leaf: put(leaf, spec), tree)
    return jax.tree.map(put, tree, spec)


def shard_population(function: Callable[..., PyTree], mesh: Mesh) -> Callable[..., PyTree]:
    """`function(population, *shared)` compiled so that each population shard evaluates its own candidates.

    `population` and every output have a leading pop axis. `shared` (weights, prompts) is the same for all candidates;
    arrays placed with a spec over "model" stay split and XLA inserts the communication. No candidate sees another,
    so the result is that of one device. Returns global arrays: see `gather`.
    """

    def per_shard(population: PyTree, shared: tuple) -> PyTree:
        return function(population, *shared)

    pop, whole = PartitionSpec(POP), PartitionSpec()
    # Only "pop" is manual; within a shard the "model" axis is left to the compiler.
    compiled = jax.jit(
        jax.shard_map(per_shard, mesh=mesh, in_specs=(pop, whole), out_specs=pop, axis_names={POP}, check_vma=False)
    )

    def run(population: PyTree, *shared: PyTree) -> PyTree:
        check_population(jax.tree.leaves(population)[0].shape[0], mesh)
        return compiled(place(population, mesh, pop), shared)

    return run


def gather(tree: PyTree) -> PyTree:
    """NumPy copies of whole arrays, on every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def agree(flag: bool) -> bool:
    """Process 0's answer, on every process: decisions that depend on a clock or a signal must be the same."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))
