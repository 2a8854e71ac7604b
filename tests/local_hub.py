"""A hub in a folder: what `push_to_hub` uploads, `snapshot_download` hands out, with revisions and patterns."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Put the stand-in in place of the hub's calls; returns the list of (id, revision) that downloads ask for."""
    asked: list[tuple[str, str | None]] = []

    def create_repo(self: Any, repo_id: str, **_: Any) -> Any:
        (folder / repo_id).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self: Any, repo_id: str, folder_path: Path, revision: str | None = None, **_: Any) -> str:
        shutil.copytree(folder_path, folder / repo_id / (revision or "main"))
        return f"https://hub.test/{repo_id}"

    def snapshot_download(repo_id: str, revision: str | None, allow_patterns: list[str], **_: Any) -> str:
        asked.append((repo_id, revision))
        source = folder / repo_id / (revision or "main")
        if not source.is_dir():
            raise OSError(f"404: no {repo_id}\n\nat {revision}")
        snapshot = folder / "snapshots" / str(len(asked))
        snapshot.mkdir(parents=True)
        for name in allow_patterns:
            (snapshot / name).symlink_to(source / name)  # the hub's cache holds links too
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create_repo)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload_folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked
