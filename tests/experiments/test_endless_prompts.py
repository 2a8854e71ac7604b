"""Prompts of several times the host's positions: answered as by a reader without end, what cannot read them refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from experiments import answers, prompts
from experiments.cli import main
from experiments.evaluate import Evaluator
from experiments.objective import UseConfig
from experiments.prompts import PromptSource, TaskMix
from experiments.records import read_table, read_traces, read_verdicts
from experiments.tasks import haystack
from experiments.tasks.fitting import need
from experiments.tasks.passkey import Passkey
from hosts.endless import Reader
from hosts.spec import RopeSpec
from hosts.weights import Host, load_host
from namm.artefact import Memory, training_free
from tests.tiny import save_host, tiny_llama

POSITIONS, LENGTH, BUDGET, INTERVAL = 256, 1500, 40, 128
QUIET = Console(quiet=True)
pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_llama(max_position_embeddings=POSITIONS, num_hidden_layers=1)
    return save_host(tmp_path_factory.mktemp("endless"), model)


def with_rope(host: Host, kind: str) -> Host:
    ropes = {"default": host.spec.rope, "dynamic": RopeSpec("dynamic", 100.0, 4.0, original_max_positions=64)}
    return host._replace(spec=replace(host.spec, rope=ropes[kind]))


def read_and_answer(host: Host, memory: Memory, prompt: Any) -> list[int]:
    """Token by token, as `namm chat` would."""
    reader, found = Reader(host, memory, BUDGET), []
    reader.read(prompt.context.tolist())
    reader.update()
    reader.read(prompt.question.tolist())
    for _ in range(prompt.sample.max_new_tokens):
        token = reader.pick()
        if token in host.spec.eos_ids:
            break
        found.append(token)
        reader.read([token])
    return found


@pytest.mark.parametrize(("name", "rope"), [("streaming-llm", "default"), ("sirllm:decay=0.9,sinks=2", "dynamic")])
def test_answers_are_those_of_a_reader_without_end(
    folder: Path, name: str, rope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, memory = with_rope(load_host(str(folder)), rope), training_free(name, INTERVAL)
    source = PromptSource(host, TaskMix(("passkey", "niah-single-noise"), LENGTH), endless=True)
    evaluator = Evaluator(source, [memory], UseConfig("streaming", BUDGET, chunk=64), batch=3)
    monkeypatch.setattr(type(host.tokenizer), "decode", lambda self, ids, **_: " ".join(map(str, ids)))
    verdicts = evaluator.run("test", 4, lambda _: None, 0).verdicts
    assert len(verdicts) == 4 and all(LENGTH - 100 < v.tokens < LENGTH for v in verdicts)
    for v in verdicts:
        assert {count for layer in v.held for count in layer} == {BUDGET}
        expected = read_and_answer(host, memory, source.prompt("test", v.index))
        assert v.prediction == " ".join(map(str, expected))
    assert len({v.prediction for v in verdicts}) > 1


def words(folder: Path, *more: str) -> list[str]:
    fixed = ["--task", "passkey", "--prompts", "2", "--batch", "2", "--interval", str(INTERVAL), "--chunk", "64"]
    return ["evaluate", "--host", str(folder), *fixed, "--budget", str(BUDGET), *more]


def test_the_command_leaves_the_full_cache_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(answers, "TRACED", LENGTH - 1)
    lengths = ["--length", "200", str(LENGTH), "--trace", "1"]
    command = [*words(folder, *lengths, "--memory", "sirllm"), "--folder", str(tmp_path)]
    assert main(command) == 0
    assert f"keep-all is left out: {load_host(str(folder)).spec.name} has 256 positions" in capsys.readouterr().out
    assert {(v.memory, v.length) for v in read_verdicts(tmp_path)} == {("sirllm", 200), ("sirllm", LENGTH)}
    assert [trace.length for trace in read_traces(tmp_path)] == [200], "a trace names every token"
    before = read_table(tmp_path)
    assert {(row.memory, row.change) for row in before} == {("sirllm", None)}
    assert main(command) == 0 and "finished" in capsys.readouterr().out
    assert main(["report", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--memory", "streaming-llm", "keydiff"], "prompts take memories at slot positions, such as streaming-llm"),
        (["--memory", "streaming-llm", "keydiff"], "keydiff is not"),
        (["--memory", "streaming-llm", "keep-all"], "keep-all is not"),
        (["--memory", "keep-all:position_rule=slot"], "is not. Choose a shorter length"),
        (["--memory", "sirllm", "--mode", "recorded"], "256 positions. Longer prompts take --mode streaming"),
        (["--memory", "sirllm", "--budget", "0.5"], "budget 750 and interval 128 need as many slot positions"),
        (["--memory", "sirllm", "--budget", "200"], "budget 200 and interval 128 need as many slot positions"),
    ],
)
def test_what_cannot_read_them_is_refused(
    more: Sequence[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(folder, "--length", str(LENGTH), *more), "--folder", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_long_prompts_are_made_few_times(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two probes a task, and every prompt of a batch once."""
    made: list[tuple[int, str, int]] = []
    make = Passkey.make
    monkeypatch.setattr(Passkey, "make", lambda *rest: (made.append(rest[2:]), make(*rest))[1])
    monkeypatch.setattr(prompts, "PROBED", 2 * LENGTH)
    source = PromptSource(load_host(str(folder)), TaskMix(("passkey",), LENGTH), endless=True)
    assert len(made) == 2
    memory = training_free("streaming-llm", INTERVAL)
    Evaluator(source, [memory], UseConfig("streaming", BUDGET, chunk=64), 4).run("test", 3, lambda _: None, 0)
    assert made[2:] == [(LENGTH, "test", index) for index in range(3)]


def test_a_haystack_is_tokenised_few_times(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sentences have more tokens together than alone, as many go at once as are too many."""
    tokenizer, counted = load_host(str(folder)).tokenizer, []
    monkeypatch.setattr(haystack, "need", lambda *rest: counted.append(need(*rest)) or counted[-1])
    counts = haystack.token_counts
    monkeypatch.setattr(haystack, "token_counts", lambda *rest: (counts(*rest) * 0.8).astype(int))
    sample = Passkey().make(tokenizer, 40_000, "test", int(np.random.default_rng().integers(10**6)))
    assert counted[1] > 45_000 and len(counted) < 12
    assert 40_000 - 50 < need(tokenizer, sample) <= 40_000
