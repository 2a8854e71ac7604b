"""The folder in which a user keeps benchmark files."""

import os
from pathlib import Path

VARIABLE = "NAMM_DATA"


def data_folder() -> Path | None:
    """The folder that the environment variable NAMM_DATA names, None where it is unset; FileNotFoundError if absent."""
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    if not Path(given).is_dir():
        raise FileNotFoundError(f"{VARIABLE}={given}: no such folder; name a folder with benchmark files, or unset it")
    return Path(given)


def data_file(name: str) -> Path | None:
    """The user's own file of that name, if there is one."""
    folder = data_folder()
    return folder / name if folder and (folder / name).is_file() else None
