"""A run on disk: asynchronous, atomic checkpoints that resume bit for bit, and a folder bound to its configuration.

Orbax writes each checkpoint to a temporary folder and renames it when it is complete. A checksum over every array
catches what still goes wrong afterwards; resuming then falls back to the checkpoint before.
"""

import json
import os
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import PreservationContext, PreservationPolicy

_FINGERPRINT = "fingerprint.json"


class RunState(NamedTuple):
    """All that a run needs to go on as if it had never stopped.

    Keys and data seeds of a generation are functions of (seed, generation), so `generation` is also the cursor into
    the random numbers and into the data.
    """

    strategy: PyTree
    key: PyTree  # key data (uint32) of the run's root key
    best_mean: PyTree
    best_value: float  # validation score of best_mean in the current stage; -inf before the first
    best_generation: int
    generation: int  # generations completed
    stage: int


class CheckpointError(RuntimeError):
    """Saving or reading a checkpoint failed; says what is still there."""


class Checkpoints:
    """The checkpoints of one run folder: the last `keep`, and that of the best validated generation."""

    def __init__(self, folder: str | os.PathLike, fingerprint: Mapping[str, Any], keep: int = 3):
        self.folder = Path(folder).absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        _bind(self.folder / _FINGERPRINT, fingerprint)
        self._preserve = _LastAndBest(keep)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._preserve, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(self.folder / "checkpoints", options=options)

    def steps(self) -> list[int]:
        """Generations with a complete checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: RunState) -> None:
        """Start writing `state`; returns while it is written. CheckpointError if this or the last one failed."""
        self.wait()
        self._preserve.best = state.best_generation
        leaves, meta = _pack(state)
        arguments = ocp.args.Composite(arrays=ocp.args.StandardSave(leaves), meta=ocp.args.JsonSave(meta))
        try:
            self._manager.save(state.generation, args=arguments)
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Block until nothing is being written; CheckpointError if that failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def restore(self, like: RunState) -> RunState | None:
        """The newest readable state, shaped like `like`; None in a new folder.

        An unreadable checkpoint is reported with a warning and moved aside. CheckpointError if none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                state = self._read(step, like)
            except Exception as error:  # a damaged file can fail anywhere inside the reader
                warnings.warn(
                    f"checkpoint {step} cannot be read ({_brief(error)}); trying the one before", stacklevel=2
                )
                continue
            self._set_aside([later for later in steps if later > step])
            return state
        if steps:
            raise CheckpointError(
                f"none of the checkpoints {steps} in {self.folder / 'checkpoints'} can be read; "
                "restore them from a copy, or start again in an empty folder"
            )
        return None

    def close(self) -> None:
        """Finish writing and release the folder."""
        self.wait()
        self._manager.close()

    def _read(self, step: int, like: RunState) -> RunState:
        leaves, _ = _pack(like)
        arguments = ocp.args.Composite(arrays=ocp.args.StandardRestore(leaves), meta=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=arguments)
        return _unpack(restored["arrays"], restored["meta"], like)

    def _set_aside(self, steps: Sequence[int]) -> None:
        """Make room for the generations to be repeated, without deleting what someone may want to look at."""
        if not steps:
            return
        if jax.process_index() == 0:
            aside = self.folder / "unreadable"
            aside.mkdir(exist_ok=True)
            for step in steps:
                target = next(path for i in range(10**6) if not (path := aside / f"{step}-{i}").exists())
                (self.folder / "checkpoints" / str(step)).rename(target)
        if jax.process_count() > 1:
            ocp.multihost.sync_global_processes("checkpoints set aside")
        self._manager.reload()

    def _failed(self, error: Exception) -> CheckpointError:
        kept = sorted(int(path.name) for path in (self.folder / "checkpoints").iterdir() if path.name.isdecimal())
        return CheckpointError(
            f"cannot write a checkpoint to {self.folder} ({_brief(error)}); is the disk full? Complete checkpoints "
            f"there: generations {kept}. Free some space and run the same command again to go on from the last."
        )


@dataclass
class _LastAndBest(PreservationPolicy):
    keep: int
    best: int = -1

    def should_preserve(self, checkpoints: Sequence[Any], *, context: PreservationContext) -> Sequence[bool]:
        oldest = len(checkpoints) - self.keep
        return [i >= oldest or info.step == self.best for i, info in enumerate(checkpoints)]


def _pack(state: RunState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays under plain names, and everything else, checksums included, as JSON."""
    arrays = (state.strategy, state.key, state.best_mean)
    paths, _ = jax.tree_util.tree_flatten_with_path(arrays)
    leaves = {f"{i:04d}": np.asarray(leaf) for i, (_, leaf) in enumerate(paths)}
    meta = {
        "generation": int(state.generation),
        "stage": int(state.stage),
        "best_value": float(state.best_value),
        "best_generation": int(state.best_generation),
        "arrays": [
            [jax.tree_util.keystr(path), list(leaf.shape), str(leaf.dtype), zlib.crc32(leaf.tobytes())]
            for (path, _), leaf in zip(paths, leaves.values(), strict=True)
        ],
    }
    return leaves, meta | {"checksum": _checksum(meta)}


def _unpack(leaves: Mapping[str, np.ndarray], meta: dict[str, Any], like: RunState) -> RunState:
    meta = dict(meta)
    if meta.pop("checksum") != _checksum(meta):
        raise ValueError("its metadata is damaged")
    arrays = (like.strategy, like.key, like.best_mean)
    paths, structure = jax.tree_util.tree_flatten_with_path(arrays)
    found, restored = meta["arrays"], []
    expected = [[jax.tree_util.keystr(path), list(np.shape(leaf)), str(leaf.dtype)] for path, leaf in paths]
    for there, here in zip_longest((entry[:3] for entry in found), expected):
        if there != here:
            raise ValueError(f"expected the array {here}, got {there}")
    for (name, _, _, checksum), leaf, (_, example) in zip(
        found, (leaves[k] for k in sorted(leaves)), paths, strict=True
    ):
        if zlib.crc32(leaf.tobytes()) != checksum:
            raise ValueError(f"its array {name} is damaged")
        restored.append(jnp.asarray(leaf) if isinstance(example, jax.Array) else np.asarray(leaf))
    strategy, key, best_mean = jax.tree.unflatten(structure, restored)
    return RunState(
        strategy, key, best_mean, meta["best_value"], meta["best_generation"], meta["generation"], meta["stage"]
    )


def _checksum(meta: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


def _bind(path: Path, fingerprint: Mapping[str, Any]) -> None:
    """Write the configuration into a new run folder; refuse a folder that was made with another one."""
    text = json.dumps(fingerprint, indent=1, sort_keys=True)
    if not path.exists():
        if jax.process_index() == 0:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(text)
            temporary.replace(path)
        return
    there, here = _flatten(json.loads(path.read_text())), _flatten(json.loads(text))
    changed = [f"{k}: {there.get(k)!r} there, {here.get(k)!r} now" for k in sorted(there.keys() | here.keys())
               if there.get(k) != here.get(k)]  # fmt: skip
    if changed:
        raise ValueError(
            f"the run in {path.parent} was made with a different configuration ({'; '.join(changed)}); "
            "use those settings to resume it, or another folder for a new run"
        )


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for name, value in tree.items() for k, v in _flatten(value, f"{prefix}.{name}".lstrip(".")).items()}


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
