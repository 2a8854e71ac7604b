"""Text models under a memory in `namm transfer`: the scores of `namm evaluate`, what is kept, and bad names."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments.evaluate import Evaluator
from experiments.objective import UseConfig
from experiments.prompts import PromptSource, TaskMix
from experiments.text_transfer import Reader, TextTransfer
from experiments.transfer import TransferConfig, find_task, transfer
from hosts.pytorch import attach
from hosts.weights import load_host
from namm.artefact import Memory, load, training_free

NAME = "text:pocket:pocket-recall:128"
SEEDS = list(range(6))


@pytest.fixture(scope="module")
def task() -> TextTransfer:
    return TextTransfer(NAME)


@pytest.fixture(scope="module")
def reader(task: TextTransfer) -> Reader:
    return task.load()


@pytest.mark.parametrize("name", ["keep-all", "keydiff", "pocket"])
def test_scores_are_those_of_evaluate(name: str, task: TextTransfer, reader: Reader) -> None:
    """A quarter of 128 tokens, an update every 32: the JAX engine, which reads in other pieces, answers alike."""
    memory: Memory = replace(load(name) if name == "pocket" else training_free(name), interval=32)
    source = PromptSource(load_host("pocket"), TaskMix(("pocket-recall",), 128))
    use = UseConfig("streaming", 32, chunk=32)
    found = Evaluator(source, [memory], use, 6).run("test", len(SEEDS), lambda _: None, 0).verdicts
    with attach(task.model(reader), memory, None if name == "keep-all" else 32, 32):
        played = task.play(reader, SEEDS, None)
    assert [one.returned for one in played] == [one.score for one in found]
    assert [one.held for one in played] == pytest.approx([one.kept for one in found])
    assert {one.returned for one in played} == ({1.0} if name == "keep-all" else {0.0, 1.0})


def test_a_cut_context_holds_its_newest_tokens(reader: Reader, tmp_path: Path) -> None:
    """In a batch as alone, whatever the padding; with a task of one's own."""
    line = {"question": " four?", "answers": ["a"], "max_new_tokens": 2}
    lines = [{"context": f"{i} is one of " + "two three " * (i % 9), **line} for i in range(40)]
    (path := tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = TextTransfer(f"text:pocket:{path}:160")
    with attach(task.model(reader), training_free("sliding-window"), 10, 16):
        together = task.play(reader, SEEDS, None)
        alone = [task.play(reader, [seed], None)[0] for seed in SEEDS]
    assert len({one.steps for one in together}) > 1
    for one in together:
        assert one.kept == (0.0,) * (one.steps - 10) + (1.0,) * 10
        np.testing.assert_array_equal(task.by_step(one.kept), one.kept)
    assert [replace(one, seconds=0.0) for one in together] == [replace(one, seconds=0.0) for one in alone]


def test_the_command(tmp_path: Path) -> None:
    config = TransferConfig(
        task=(NAME,), budget=(0.25,), policy=("sirllm",), random=1, episodes=2, batch=2, folder=tmp_path
    )
    rows = transfer(config, Console(quiet=True))
    assert [row.memory for row in rows] == ["keep-all", "contents", "random-0", "sirllm"]
    assert f"## {NAME} (2 prompts of " in (tmp_path / "transfer.md").read_text()
    page = (tmp_path / "transfer.html").read_text()
    shown = re.findall(r'<span title="(\d+)%"[^>]*>([^<]*)</span>', page)
    context = PromptSource(load_host("pocket"), TaskMix(("pocket-recall",), 128)).prompt("test", 0).sample.context
    assert context.strip() in html.unescape("".join(text for _, text in shown))
    assert len({share for share, _ in shown}) > 2


def test_a_changed_task_file_is_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    lines = [{"prompt": f"three four {word}", "answers": ["six"], "max_new_tokens": 2} for word in ("0", "1", "2")]
    own.write_text("\n".join(map(json.dumps, lines)))
    config = TransferConfig(
        task=(f"text:pocket:{own}:64",), budget=(0.5,), policy=(), random=0, episodes=1, folder=tmp_path / "run"
    )
    rows = transfer(config, Console(quiet=True))
    assert transfer(config, Console(quiet=True)) == rows
    own.write_text(own.read_text().replace("three", "two"))
    with pytest.raises(ValueError, match=r"^contents of .*own\.jsonl"):
        transfer(config, Console(quiet=True))


def test_what_cannot_work_is_said(reader: Reader) -> None:
    for name in ("text", "text:pocket:passkey", "text:pocket:passkey:x"):
        with pytest.raises(ValueError, match="unknown text task"):
            find_task(name)
    with pytest.raises(ValueError, match="length is 4096; pocket has"):
        TextTransfer("text:pocket:passkey:4096").model(reader)
    with pytest.raises(ValueError, match="attach a memory"):
        TextTransfer(NAME).play(reader, [0], None)
    assert TextTransfer("text:pocket:ruler/cwe:released:512").mix.tasks == ("ruler/cwe:released",)
