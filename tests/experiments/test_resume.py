"""An evaluation that is killed and resumed is the uninterrupted one."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments import comparison
from experiments.comparison import EvaluateConfig, evaluate
from experiments.records import Records, read_table, read_traces, read_verdicts
from tests.tiny import save_host, tiny_llama

QUIET = Console(quiet=True)
pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EvaluateConfig:
    folder = tmp_path_factory.mktemp("resume")
    save_host(folder / "host", tiny_llama(max_position_embeddings=256, num_hidden_layers=1))
    lines = [{"context": f"the {i} is {i * 37}. ok", "question": f" {i}?", "answers": [str(i * 37)]} for i in range(40)]
    lines = [{**line, "max_new_tokens": 2} for line in lines]
    tasks = (str(folder / "own.jsonl"), str(folder / "more.jsonl"))
    for path, part in zip(tasks, (lines[:25], lines[15:]), strict=True):
        Path(path).write_text("\n".join(map(json.dumps, part)))
    return EvaluateConfig(
        str(folder / "host"), ("streaming-llm",), tasks, (64, 96), (0.5, 12), "tokens",
        "recorded", prompts=5, batch=2, interval=16, chunk=16, trace=3, folder=folder / "whole",
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(config: EvaluateConfig) -> Path:
    evaluate(config, QUIET)
    assert config.folder
    return config.folder


def found(folder: Path) -> tuple[Any, Any, Any]:
    """What the records say, without the time they took."""
    verdicts = [replace(v, seconds=0.0) for v in read_verdicts(folder)]
    return verdicts, read_traces(folder), [replace(row, seconds=0.0) for row in read_table(folder)]


@pytest.mark.parametrize("answered", [1, 2, 9])  # of three entries a batch, three batches a length
def test_killed_and_resumed(
    answered: int, config: EvaluateConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, folder=tmp_path)
    append, written = Records.append, []

    def killed(self: Records, verdicts: Any, traces: Any) -> None:
        if len(written) == answered:  # in the middle of an entry's batch: one whole line, one torn
            append(self, verdicts[:1], traces)
            with (tmp_path / "verdicts.jsonl").open("a") as file:
                file.write('{"memory": "torn')
            raise KeyboardInterrupt
        written.append(verdicts)
        append(self, verdicts, traces)

    monkeypatch.setattr(Records, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, QUIET)
    assert not (tmp_path / "table.json").exists()
    monkeypatch.undo()
    before = {(v.entry, v.length, v.index) for v in read_verdicts(tmp_path)}
    again: Counter[tuple[str, int, int]] = Counter()

    def counting(self: Records, verdicts: Any, traces: Any) -> None:
        again.update((v.entry, v.length, v.index) for v in verdicts)
        append(self, verdicts, traces)

    monkeypatch.setattr(Records, "append", counting)
    evaluate(config, QUIET)
    assert before and not before & set(again) and set(again.values()) == {1}
    assert len(again) == 2 * 3 * 5 - len(before)
    assert found(tmp_path) == found(whole)
    assert len(found(whole)[0]) == 2 * 3 * 5 and len(found(whole)[1]) == 2 * 3
    assert list(dict.fromkeys(v.index for v in found(whole)[0])) == [0, 2, 4, 1, 3]  # task by task


def test_a_finished_one_grows(
    config: EvaluateConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(config, prompts=3, folder=tmp_path)
    evaluate(few, QUIET)
    answered: list[tuple[str, str, int]] = []
    append = Records.append

    def counting(self: Records, verdicts: Any, traces: Any) -> None:
        answered.extend((v.memory, v.budget, v.index) for v in verdicts)
        append(self, verdicts, traces)

    monkeypatch.setattr(Records, "append", counting)
    evaluate(replace(config, folder=tmp_path), QUIET)
    entries = {("streaming-llm", "50%"), ("streaming-llm", "12"), ("keep-all", "full")}
    assert set(answered) == {(*entry, index) for entry in entries for index in (3, 4)}
    assert found(tmp_path) == found(whole)
    answered.clear()
    evaluate(more := replace(config, memory=("keydiff", "streaming-llm"), folder=tmp_path), QUIET)
    assert set(answered) == {("keydiff", budget, index) for budget in ("50%", "12") for index in range(5)}
    answered.clear()
    evaluate(more := replace(more, budget=(0.25, 12, 0.5)), QUIET)
    assert set(answered) == {(name, "25%", index) for name in ("keydiff", "streaming-llm") for index in range(5)}
    evaluate(replace(more, folder=tmp_path / "once"), QUIET)
    assert found(tmp_path) == found(tmp_path / "once")


def test_a_finished_one_ends_at_once(config: EvaluateConfig, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in whole.iterdir()}
    monkeypatch.delattr(comparison, "load_host")
    assert evaluate(config, QUIET) == read_table(whole)
    assert {file.name: file.read_bytes() for file in whole.iterdir()} == before
    assert {"table.csv", "tasks.csv", "lengths.csv"} <= set(before)


def test_other_settings_are_refused_by_name(config: EvaluateConfig, whole: Path, tmp_path: Path) -> None:
    for change in ({"budget": (0.25,)}, {"prompts": 4}, {"memory": ("keydiff",)}, {"length": (96, 64)}):
        with pytest.raises(ValueError, match=f"^{next(iter(change))}: .*Choose another --folder"):
            evaluate(replace(config, **change), QUIET)
    with pytest.raises(ValueError, match="different budgets"):
        evaluate(replace(config, budget=(0.5, 0.5 + 1e-9)), QUIET)
    task = Path(config.task[0])
    old = task.read_text()
    task.write_text(old + "\n" + old.splitlines()[0].replace("the", "an"))
    with pytest.raises(ValueError, match=r"^contents of .*own\.jsonl"):
        evaluate(config, QUIET)
    task.write_text(old)
    (tmp_path / "table.json").write_text("[]")
    with pytest.raises(ValueError, match=r"another run's"):
        evaluate(replace(config, folder=tmp_path), QUIET)


def test_records_say_what_the_memory_saw(config: EvaluateConfig, whole: Path, tmp_path: Path) -> None:
    verdicts = read_verdicts(whole)
    assert {v.question for v in verdicts} == {"hidden"}
    assert all(v.depth is not None and 0 < v.depth < 1 for v in verdicts)
    assert all(sum(map(sum, v.held)) == pytest.approx(v.kept * v.tokens * 2) for v in verdicts)
    for trace in read_traces(whole):
        own = {v.entry: v for v in verdicts if (v.length, v.index) == (trace.length, trace.index)}
        for entry in trace.kept:
            assert tuple(map(tuple, trace.bits(entry).sum(2).tolist())) == own[entry].held
        assert set(trace.kept) == {"streaming-llm 50%", "streaming-llm 12"} == set(own) - {"keep-all"}
        assert "".join(trace.tokens).startswith("the ")
    prompts = tmp_path / "whole.jsonl"
    lines = [{"prompt": f"{i}? the {i} is", "answers": ["1"], "max_new_tokens": 2} for i in range(10, 40)]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    shown = replace(config, task=(str(prompts),), length=(64,), prompts=1, folder=tmp_path / "shown")
    evaluate(shown, QUIET)
    assert {v.question for v in read_verdicts(tmp_path / "shown")} == {"shown"}
