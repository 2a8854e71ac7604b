"""`namm convert`: a checkpoint file of the original implementation into a memory's folder."""

import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from namm.artefact import Memory
from namm.original import Member, from_original

ENTRIES = {"evolution_state", "iter_num", "best_val_loss"}


@dataclass(frozen=True)
class ConvertConfig:
    """A checkpoint of the original implementation (ckpt.pt, latest.pt, iter_N.pt) into a memory's folder.

    source: the checkpoint. folder: where the memory goes. member: the search's mean, which the original reports, or
    its best single candidate. interval: tokens between updates, the original's fixed delay, which the checkpoint does
    not hold. name: the memory's, by default the folder's.
    """

    source: tyro.conf.Positional[Path]
    folder: tyro.conf.Positional[Path]
    member: Member = "mean"
    interval: int = 512
    name: str | None = None


def convert(config: ConvertConfig, console: Console) -> Memory:
    """Read, check, save and say what was made."""
    name = config.name or config.folder.resolve().name
    memory = from_original(read_state(config.source), name, config.member, config.interval)
    memory.save_pretrained(config.folder)
    console.print(f"Converted the {config.member} of {config.source}. Use it with namm.load({str(config.folder)!r})")
    return memory


def read_state(path: Path) -> dict[str, np.ndarray]:
    """The named arrays of a checkpoint's evolution state; nothing in the file can run code.

    FileNotFoundError for a missing file, ValueError for one that does not have the original's layout, ImportError
    without torch.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a checkpoint of the original, such as ckpt.pt")
    content = _load(path)
    if not isinstance(content, dict) or "evolution_state" not in content or not set(content) <= ENTRIES:
        got = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} holds {got}; expected evolution_state beside iter_num and best_val_loss")
    state = content["evolution_state"]
    import torch

    if not isinstance(state, dict) or not all(isinstance(x, torch.Tensor) for x in state.values()):
        raise ValueError(f"{path}: evolution_state is not a mapping of names to tensors")
    return {str(key): value.float().numpy() for key, value in state.items()}


class _Unread:
    """Stands for NumPy's numbers, in which the original keeps its best score: read past, never made."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


NUMBERS = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


def _load(path: Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError("reading the original's checkpoints needs torch: pip install 'namm[torch]'") from error
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a whole file of torch.save (1.6 or later); fetch it again")
    try:
        with torch.serialization.safe_globals([(_Unread, name) for name in NUMBERS]):
            # mapped: the search's matrices, most of the file, are not read
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:  # torch's own words advise to run what is in the file
        raise ValueError(f"{path} holds more than tensors and numbers; nothing of it was run, and none is") from error
    except Exception as error:  # a damaged file fails in as many ways as pickle has operations
        raise ValueError(f"{path} is not readable ({type(error).__name__}: {error}); fetch it again") from error
