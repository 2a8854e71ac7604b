"""`namm stream`: every token counted once, the lines on disk, a clear end at original positions."""

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cli import main
from experiments.streaming import LINE, read_lines, resident_bytes
from hosts.endless import Reader
from hosts.llama import forward
from hosts.weights import Host
from namm.artefact import training_free
from tests.random_host import SPEC, random_params


def test_every_token_counts_once(monkeypatch) -> None:
    """Lines of 100 tokens, a text of 37 that is read again and again, chunks of 24 that fit neither."""
    monkeypatch.setattr("experiments.streaming.LINE", 100)
    rng = np.random.default_rng()
    host = Host(SPEC, random_params(int(rng.integers(2**31))), None)
    text, total = rng.integers(0, 49, 37).astype(np.int32), 330
    lines = list(read_lines(Reader(host, training_free("keep-all", interval=24), 1), text, total))
    read = np.resize(text, total)
    scores = jax.nn.log_softmax(jax.jit(forward, static_argnums=1)(host.params, SPEC, jnp.asarray(read[None]))[0])
    surprisal = -np.asarray(scores)[np.arange(total - 1), read[1:]]
    assert [line.tokens for line in lines] == [100, 200, 300, 330]
    wanted = [np.exp(part.mean()) for part in np.split(surprisal, [99, 199, 299])]
    np.testing.assert_allclose([line.perplexity for line in lines], wanted, rtol=2e-4)
    assert len({line.cache_bytes for line in lines}) == 1 and all(line.tokens_per_second > 0 for line in lines)


def test_the_command_writes_lines_table_and_figure(tmp_path: Path, capsys) -> None:
    words = ["stream", "--host", "pocket", "--memory", "streaming-llm", "sliding-window", "--budget", "64"]
    assert main([*words, "--tokens", "2100", "--interval", "128", "--folder", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "stream.json").read_text())
    assert [(row["memory"], row["tokens"]) for row in rows] == [
        *(("streaming-llm", tokens) for tokens in (LINE, 2 * LINE, 2100)),
        *(("sliding-window", tokens) for tokens in (LINE, 2 * LINE, 2048)),
    ]
    with (tmp_path / "stream.csv").open() as file:
        assert [{k: str(v) for k, v in row.items()} for row in rows] == list(csv.DictReader(file))
    assert (tmp_path / "stream.png").stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert "sliding-window stops after 2048 tokens" in shown and "2,100" in shown


def test_lines_survive_an_interruption(tmp_path: Path, monkeypatch) -> None:
    def interrupted(*arguments):
        for number, line in enumerate(read_lines(*arguments)):
            if number == 2:
                raise KeyboardInterrupt
            yield line

    monkeypatch.setattr("experiments.streaming.read_lines", interrupted)
    words = ["stream", "--host", "pocket", "--memory", "streaming-llm", "--budget", "64", "--tokens", "9000"]
    assert main([*words, "--folder", str(tmp_path)]) == 130
    assert len((tmp_path / "stream.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "streaming-llm:sink=0"], "no setting 'sink'; expected NAME=VALUE with one of"),
        (["--memory", "streaming-llm", "--budget", "2000"], "budget 2000 and interval 64 need as many slot positions"),
        (["--tokens", "1"], "tokens is 1"),
        (["--text", "/nowhere.txt"], "/nowhere.txt"),
    ],
)
def test_mistakes_end_in_one_clear_line(words, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["stream", "--host", "pocket", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_resident_bytes_see_an_array() -> None:
    before = resident_bytes()
    array = np.ones(8 * 2**20)
    assert resident_bytes() - before > 0.9 * array.nbytes
