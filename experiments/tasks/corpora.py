"""The folder in which a user keeps benchmark files: `--data-dir` of a command, or the variable NAMM_DATA."""

import os
from pathlib import Path

VARIABLE = "NAMM_DATA"
OPTION = f"--data-dir or {VARIABLE}"  # how errors call it


def use_data_folder(path: Path | None) -> None:
    """Make it the folder of this process and of those it starts; None leaves what NAMM_DATA says.

    FileNotFoundError without such a folder.
    """
    if path is None:
        return
    os.environ[VARIABLE] = str(_existing(path))


def data_folder() -> Path | None:
    """The folder in use, None where neither the option nor the variable names one; FileNotFoundError if absent."""
    given = os.environ.get(VARIABLE)
    return _existing(Path(given)) if given else None


def data_file(name: str) -> Path | None:
    """The user's own file of that name, if there is one."""
    folder = data_folder()
    return folder / name if folder and (folder / name).is_file() else None


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {OPTION} must name a folder with benchmark files, or none")
    return folder
