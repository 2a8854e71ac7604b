"""Where a memory's folder is: on this machine, or on the Hugging Face hub by its id `owner/name`."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import errors, utils

from namm.folder import CONFIG, WEIGHTS


def locate(source: str | Path, revision: str | None = None, **download: Any) -> Path:
    """The folder of a path, or of a hub id after fetching its two files into the hub's cache.

    revision: branch, tag or commit of a hub id. download: options of `huggingface_hub.snapshot_download`.
    FileNotFoundError where neither this machine nor the hub has it, ValueError for what cannot be a memory.
    """
    name = str(source)
    if os.path.isdir(name):
        if revision is not None:
            raise ValueError(f"revision is {revision!r}, but {name} is a folder here; revisions are of hub ids")
        return Path(name)
    if os.path.exists(name):
        raise ValueError(f"{name} is a file; a memory is a folder with {CONFIG} and {WEIGHTS}, name the folder")
    if not _is_hub_id(name):
        raise FileNotFoundError(f"{name}: no such folder, and not a hub id like owner/name; check the path")
    return _fetch(name, revision, **download)


def _is_hub_id(name: str) -> bool:
    try:
        utils.validate_repo_id(name)
    except errors.HFValidationError:
        return False
    return name.count("/") == 1


def _fetch(name: str, revision: str | None, **download: Any) -> Path:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=[CONFIG, WEIGHTS], **download
        )
    except Exception as error:  # network, authorisation and cache errors share no base class
        reason = " ".join(str(error).split())
        at = "" if revision is None else f" at revision {revision!r}"
        raise FileNotFoundError(
            f"{name}: no such folder in {Path.cwd()}, and the hub did not provide a repository of that id{at} "
            f"({type(error).__name__}: {reason}). If you mean a folder, check the path; if a hub id, check its "
            "spelling, the revision and the network, and for a private one log in with `hf auth login`"
        ) from error
    return Path(folder)
