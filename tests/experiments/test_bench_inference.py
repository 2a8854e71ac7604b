"""`namm bench inference` on a tiny host: what it reports is there, and the cache's peak is what was promised."""

import json
from pathlib import Path

import pytest

from experiments.cli import main
from tests.tiny import save_host, tiny_llama


def test_peaks_times_and_the_file(tmp_path: Path, capsys) -> None:
    host = save_host(tmp_path / "host", tiny_llama(seed=1, max_position_embeddings=512))
    words = ["bench", "inference", "--host", str(host), "--memories", "h2o", "pocket", "--contexts", "64", "128"]
    words += ["--budget", "0.25", "--interval", "32", "--tokens", "3", "--rounds", "2", "--folder", str(tmp_path)]
    assert main(words) == 0
    assert "128 tokens, pocket" in capsys.readouterr().out
    rows = json.loads((tmp_path / "inference.json").read_text())
    assert len(rows) == 2 * 2 * 3
    token = 2 * 2 * 2 * 8 * 4 / 2**20  # layers, heads, key and value, dimensions, float32
    for row, kept in zip(rows[::3], (16, 16, 32, 32), strict=True):
        assert row["second"] == kept * token
        assert kept < row["first"] / token <= kept + 32 / 2  # one of two layers at a time holds an interval
    assert all(row["ratio"] > 0 for row in rows)


def test_settings_that_measure_nothing(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "inference", "--rounds", "0"])
    assert "rounds is 0; expected 1 or more" in capsys.readouterr().err
