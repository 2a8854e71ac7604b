"""`namm stream`: every token and every word counted once, the lines on disk, resuming, an end at original positions."""

import csv
import json
from dataclasses import asdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import streaming
from experiments.cli import main
from experiments.report import stream_table
from experiments.streaming import LINE, Line, read_lines, resident_bytes
from experiments.texts import Text
from hosts.endless import Reader
from hosts.llama import forward
from hosts.weights import Host
from namm.artefact import training_free
from tests.random_host import SPEC, random_params

SHORT = ["stream", "--host", "pocket", "--budget", "64", "--interval", "128"]


@pytest.mark.parametrize("size", [37, 250, 330])
def test_every_token_and_word_counts_once(size: int, monkeypatch) -> None:
    """Lines of 100 tokens, a text that is read again where it is short, chunks of 24 that fit neither."""
    monkeypatch.setattr("experiments.streaming.LINE", 100)
    rng = np.random.default_rng()
    host = Host(SPEC, random_params(int(rng.integers(2**31))), None)
    text, total = Text(rng.integers(0, 49, size).astype(np.int32), words=size // 2), 330
    lines = list(read_lines(Reader(host, training_free("keep-all", interval=24), 1), text, total))
    read = np.resize(text.ids, total)
    scores = jax.nn.log_softmax(jax.jit(forward, static_argnums=1)(host.params, SPEC, jnp.asarray(read[None]))[0])
    surprisal = -np.asarray(scores)[np.arange(total - 1), read[1:]]
    assert [line.tokens for line in lines] == [100, 200, 300, 330]
    wanted = [np.exp(part.mean()) for part in np.split(surprisal, [99, 199, 299])]
    np.testing.assert_allclose([line.perplexity for line in lines], wanted, rtol=2e-4)
    by_words = {line.tokens: line.word_perplexity for line in lines if line.word_perplexity is not None}
    assert list(by_words) == [min(tokens for tokens in (100, 200, 300, 330) if tokens >= size)]
    np.testing.assert_allclose(list(by_words.values()), np.exp(surprisal[: size - 1].sum() / (size // 2)), rtol=2e-3)
    assert len({line.cache_bytes for line in lines}) == 1 and all(line.tokens_per_second > 0 for line in lines)


def test_a_text_that_is_not_read_whole_has_no_words(monkeypatch) -> None:
    host = Host(SPEC, random_params(0), None)
    text = Text(np.arange(40, dtype=np.int32), words=10)
    (line,) = read_lines(Reader(host, training_free("keep-all", interval=24), 1), text, 39)
    assert line.word_perplexity is None
    table = stream_table([asdict(line)])
    assert [column.header for column in table.columns][5] == "by words" and list(table.columns[5].cells) == [""]


def test_the_command_writes_lines_table_and_figure(tmp_path: Path, capsys) -> None:
    words = [*SHORT, "--memory", "streaming-llm", "sliding-window"]
    assert main([*words, "--tokens", "2100", "--folder", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "stream.json").read_text())
    assert [(row["memory"], row["tokens"]) for row in rows] == [
        *(("streaming-llm", tokens) for tokens in (LINE, 2 * LINE, 2100)),
        *(("sliding-window", tokens) for tokens in (LINE, 2 * LINE, 2048)),
    ]
    with (tmp_path / "stream.csv").open() as file:
        assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows] == list(csv.DictReader(file))
    assert (tmp_path / "stream.png").stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert "sliding-window stops after 2048 tokens" in shown and "2,100" in shown


@pytest.fixture
def books(tmp_path: Path, monkeypatch) -> Path:
    """A data folder with the test split of a PG-19 of our own."""
    monkeypatch.setenv("NAMM_DATA", "")
    folder = tmp_path / "data" / "pg19" / "test"
    folder.mkdir(parents=True)
    rng = np.random.default_rng()
    for number in range(3):
        lines = [" ".join(rng.choice(["red", "fox", "the", "rain", "sleeps"], 7)) + "." for _ in range(40)]
        (folder / f"{number}.txt").write_text("\n".join(lines))
    return tmp_path / "data"


def unwatched(line: dict) -> dict:
    """Without what the machine says."""
    return {k: v for k, v in line.items() if k not in ("resident_bytes", "tokens_per_second")}


def test_a_killed_stream_resumes(books: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """The finished memory is kept, the interrupted one begins again; other settings and texts are refused."""
    names = ("streaming-llm", "streaming-llm:sinks=0")
    words = [*SHORT, "--text", "pg19", "--data-dir", str(books), "--tokens", "1200", "--memory", *names]
    assert main([*words, "--folder", str(tmp_path / "whole")]) == 0

    def interrupted(reader: Reader, *rest):
        for number, line in enumerate(read_lines(reader, *rest)):
            if number == 1 and reader.memory.name == names[1]:
                raise KeyboardInterrupt
            yield line

    monkeypatch.setattr(streaming, "read_lines", interrupted)
    words += ["--folder", str(tmp_path / "killed")]
    assert main(words) == 130
    assert len((tmp_path / "killed" / "stream.csv").read_text().splitlines()) == 1 + 2 + 1, "lines as they come"
    read: list[str] = []
    monkeypatch.setattr(streaming, "read_lines", lambda r, *rest: (read.append(r.memory.name), read_lines(r, *rest))[1])
    assert main(words) == 0
    assert read == [names[1]]
    whole, killed = (json.loads((tmp_path / name / "stream.json").read_text()) for name in ("whole", "killed"))
    assert list(map(unwatched, whole)) == list(map(unwatched, killed)) and len(whole) == 4
    assert len((tmp_path / "killed" / "stream.csv").read_text().splitlines()) == 1 + 4
    monkeypatch.delattr(streaming, "load_host")
    assert main(words) == 0 and "finished" in capsys.readouterr().out
    assert main([*words, "--budget", "32"]) == 2
    assert "budget: " in (error := capsys.readouterr().err) and "Choose another --folder" in error
    (books / "pg19" / "test" / "3.txt").write_text("one more book")
    assert main(words) == 2 and "contents of the text: " in capsys.readouterr().err
    (tmp_path / "killed" / "settings.json").unlink()
    assert main(words) == 2 and "another run's" in capsys.readouterr().err


def test_a_text_is_read_once_where_no_tokens_are_named(books: Path, monkeypatch, tmp_path: Path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--memory", "streaming-llm", "--text", "pg19", "--data-dir", str(books), "--tokens", "None"]
    assert main([*SHORT, *words]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    lines = [Line(**row) for row in json.loads((folder / "stream.json").read_text())]
    assert [line.word_perplexity is None for line in lines] == [True] * (len(lines) - 1) + [False]
    nats = sum(np.log(line.perplexity) * tokens for line, tokens in zip(lines, counts(lines), strict=True))
    assert lines[-1].word_perplexity == pytest.approx(np.exp(nats / (3 * 40 * 7)), rel=1e-6)
    assert f"{lines[-1].word_perplexity:.2f}" in capsys.readouterr().out


def counts(lines: list[Line]) -> np.ndarray:
    """Tokens with a p in every line."""
    tokens = np.diff([line.tokens for line in lines], prepend=0)
    return tokens - (np.arange(len(tokens)) == 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "streaming-llm:sink=0"], "no setting 'sink'; expected NAME=VALUE with one of"),
        (["--memory", "streaming-llm", "--budget", "2000"], "budget 2000 and interval 64 need as many slot positions"),
        (["--tokens", "1"], "tokens is 1"),
        (["--text", "/nowhere.txt"], "/nowhere.txt"),
        (["--text", "blank.txt"], "blank.txt is empty"),
        (["--text", "pg19", "--data-dir", "."], "pg19/test: no .txt files; the folder of --data-dir or NAMM_DATA"),
    ],
)
def test_mistakes_end_in_one_clear_line(words, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("NAMM_DATA", "")
    monkeypatch.chdir(tmp_path)
    Path("blank.txt").write_text(" \n")
    assert main(["stream", "--host", "pocket", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_resident_bytes_see_an_array() -> None:
    before = resident_bytes()
    array = np.ones(8 * 2**20)
    assert resident_bytes() - before > 0.9 * array.nbytes
