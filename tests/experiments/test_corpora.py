"""The folder with benchmark files: the option wins over the variable, and both are named where it is absent."""

import os
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.tasks.corpora import data_file, data_folder, use_data_folder


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMM_DATA", "")


def test_the_option_wins_over_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder() is None and data_file("own.json") is None
    for name in ("variable", "option"):
        (tmp_path / name).mkdir()
    (tmp_path / "option" / "own.json").write_text("[]")
    monkeypatch.setenv("NAMM_DATA", str(tmp_path / "variable"))
    use_data_folder(None)
    assert data_folder() == tmp_path / "variable" and data_file("own.json") is None
    use_data_folder(tmp_path / "option")
    assert data_folder() == tmp_path / "option" and data_file("own.json") == tmp_path / "option" / "own.json"


@pytest.mark.parametrize("command", [["evolve", "pocket"], ["evaluate"], ["stream"]])
def test_an_absent_folder_is_refused_at_once(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent: no such folder; --data-dir or NAMM_DATA must name"):
        use_data_folder(tmp_path / "absent")
    words = ["--data-dir", str(tmp_path / "absent"), "--folder", str(tmp_path / "run")]
    assert main([*command, *words]) == 2
    assert "absent: no such folder" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert os.environ["NAMM_DATA"] == "", "a wrong option changes nothing"
