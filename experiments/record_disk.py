"""Records on disk under a limit: a search that draws the same prompts again does not read them again."""

import hashlib
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.flax import save_file


class RecordDisk:
    """A folder of records, a file each; beyond `limit` bytes those longest unused are deleted.

    reader: whatever a record depends on besides its prompt. Names are digests of both, so no stale record is found, and
    any number of runs and processes may share a folder.
    """

    def __init__(self, folder: Path, limit: int, reader: str):
        self.folder, self.limit, self.reader = folder, limit, reader
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, prompt: PyTree[np.ndarray | np.generic]) -> Path:
        """Where the record of a prompt is or would be."""
        told = hashlib.sha256(self.reader.encode())
        for part in jax.tree.leaves(prompt):
            told.update(f"{part.shape}{part.dtype}".encode() + np.ascontiguousarray(part).tobytes())
        return self.folder / f"{told.hexdigest()[:32]}.safetensors"

    def get(self, prompt: PyTree[np.ndarray | np.generic], structure: Any) -> Any:
        """The record as a tree of this structure, or None where it is not held; a damaged file is deleted."""
        path = self.path(prompt)
        try:
            os.utime(path)  # used now
            with safe_open(path, "flax") as file:
                leaves = [np.asarray(file.get_tensor(f"{i:03}")) for i in range(structure.num_leaves)]
        except FileNotFoundError:
            return None
        except SafetensorError:
            path.unlink(missing_ok=True)
            return None
        return jax.tree.unflatten(structure, leaves)

    def put(self, prompt: PyTree[np.ndarray | np.generic], record: PyTree[np.ndarray | np.generic]) -> None:
        """Keep a record, whole or not at all, and make room for it."""
        tensors = {f"{i:03}": jnp.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(record))}
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="writing-") as temporary:
            part = Path(temporary) / "record"
            save_file(tensors, part)
            part.replace(self.path(prompt))
        self._make_room()

    def _make_room(self) -> None:
        found = []
        for path in self.folder.glob("*.safetensors"):
            try:
                stat = path.stat()
            except FileNotFoundError:  # another process made room
                continue
            found.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size


def describe(*settings: Any, params: PyTree) -> str:
    """What records depend on: settings by their `repr`, the host's weights by their contents, and the software."""
    told = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        array = np.asarray(leaf)
        told.update(f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).view(np.uint8).data)
    return "\n".join([*map(repr, settings), told.hexdigest(), jax.__version__, version("namm")])
