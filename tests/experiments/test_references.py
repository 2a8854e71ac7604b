"""Rock, paper, scissors never stands without what needs no model."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from experiments.comparison import EvaluateConfig, evaluate
from experiments.page import write_report
from experiments.references import TITLE, read_references
from experiments.tasks import load_task
from experiments.tasks.rock_paper_scissors import reference_rates
from tests.tiny import save_host, tiny_llama, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("compile_quickly")
TASKS = ("rps/rock", "passkey", "rps/paper")


def recorded(config: EvaluateConfig) -> str:
    console = Console(record=True, width=150, file=io.StringIO())
    evaluate(config, console)
    return console.export_text()


def test_references_are_of_the_same_rounds(tmp_path: Path) -> None:
    save_host(tmp_path / "host", tiny_llama(max_position_embeddings=400, num_hidden_layers=1))
    config = EvaluateConfig(
        str(tmp_path / "host"), ("key-norm",), TASKS, (400,), (16,), "tokens", "recorded", prompts=8, batch=8,
        trace=2, folder=tmp_path / "run",
    )  # fmt: skip
    for _ in range(2):  # when it is run, and when it is found finished
        text = recorded(config)
        assert TITLE in text and all(name in text for name in ("always R", "uniform", "frequency"))
    rows = {row.task: row for row in read_references(tmp_path / "run")}
    assert list(rows) == ["rps/rock", "rps/paper", "mean"]
    for task, prompts in (("rps/rock", 3), ("rps/paper", 2)):
        samples = [load_task(task).make(tiny_tokenizer(), 400, "test", i) for i in range(prompts)]
        assert rows[task].rates == reference_rates(samples) and rows[task].prompts == prompts
    for name, rate in rows["mean"].rates.items():
        assert rate == pytest.approx((rows["rps/rock"].rates[name] + rows["rps/paper"].rates[name]) / 2)
    page = write_report(tmp_path / "run").read_text()
    assert 'id="references"' in page and "Rock Paper Scissors: a mean over 3 tasks" in page
    traces = [json.loads(line) for line in (tmp_path / "run" / "traces.jsonl").read_text().splitlines()]
    assert [len(trace["facts"]) for trace in traces] == [0, 1], "a letter is no fact, a pass key is one"
