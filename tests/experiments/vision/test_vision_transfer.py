"""Clips watched under a memory: what is kept of them, and answers that are the stock model's where all is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from experiments.summary import WHOLE
from experiments.transfer import TransferConfig, transfer
from experiments.vision.tasks import Clip
from experiments.vision.transfer import Viewer, VisionTransfer
from hosts.pytorch import attach
from hosts.pytorch.vision import pixel_values
from namm.artefact import load, training_free
from tests.experiments.vision.tiny import tiny_vision


@pytest.fixture(scope="module")
def viewer() -> Viewer:
    return Viewer(tiny_vision())


def stock_answer(viewer: Viewer, clip: Clip, text: str) -> int:
    """The likeliest token behind the whole prompt, without a memory and from pixels."""
    ids = torch.tensor([viewer.host.clip(len(clip.frames)) + viewer.host.question(text)])
    pixels = pixel_values(torch.from_numpy(clip.frames))
    with torch.no_grad():
        return int(viewer.host.model(input_ids=ids, pixel_values=pixels).logits[0, -1].argmax())


def test_everything_kept_answers_as_the_stock_model(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours are asked for in the stock model's own words, shapes are not: one right, one wrong, in every clip."""
    task, seeds, host = VisionTransfer("vqa-4"), [5, 6, 7], viewer.host
    said = {}
    for seed in seeds:
        clip, _ = viewer.watch(task.task, seed)
        said |= {(seed, one.kind): stock_answer(viewer, clip, one.text) for one in clip.questions}
    assert len(set(said.values())) > 1
    for seed in seeds:
        clip, seen = viewer.watch(task.task, seed)
        tokens = {"colour": said[seed, "colour"], "shape": said[seed, "shape"] + 1}
        renamed = tuple(one._replace(answer=str(tokens[one.kind])) for one in clip.questions)
        viewer.seen[task.name, seed] = clip._replace(questions=renamed), seen
    monkeypatch.setattr(type(host), "answer", lambda _, word: int(word))
    with attach(host.model, "keep-all", interval=16):
        played = task.play(viewer, seeds, None)
    viewer.seen.clear()
    for one in played:
        assert one.parts == {"colour": 1.0, "shape": 0.0} and one.returned == 0.5
        assert one.held == one.cue_kept == 1.0 and set(one.kept) == {1.0} and len(one.kept) == 17


def test_a_cut_context_holds_its_newest_tokens(viewer: Viewer) -> None:
    """Budget 10 of 65 tokens, updates every 16 and one at the end: exactly the last 10 stand there."""
    task = VisionTransfer("vqa-16")
    with attach(viewer.host.model, training_free("sliding-window"), 10, 16):
        (one,) = task.play(viewer, [3], None)
    assert one.kept == (0.0,) * 55 + (1.0,) * 10
    np.testing.assert_array_equal(task.by_step(one.kept), [0] * 13 + [0.5, 1, 1])
    assert one.held == pytest.approx(10 / 65) and one.cue_kept == task.by_step(one.kept)[one.cue]
    assert one.cache_bytes == 10 * 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, 8 floats
    assert len(task.images(viewer, 3)) == 16 and task.images(viewer, 3)[0].startswith(b"\x89PNG")


def test_a_batch_is_its_clips(viewer: Viewer) -> None:
    task, seeds = VisionTransfer("vqa-4"), [0, 1, 2]
    with attach(viewer.host.model, load("smollm2"), 6, 16):
        together = task.play(viewer, seeds, None)
        alone = [task.play(viewer, [seed], None)[0] for seed in seeds]
    assert len({one.kept for one in together}) > 1
    assert [replace(one, seconds=0.0) for one in together] == [replace(one, seconds=0.0) for one in alone]


def test_playing_without_a_memory_is_refused(viewer: Viewer) -> None:
    with pytest.raises(ValueError, match="no memory attached"):
        VisionTransfer("vqa-1").play(viewer, [0], None)


def test_the_same_command(viewer: Viewer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, controls, files and thumbnails of `namm transfer` on clips; a second time nothing is played."""
    monkeypatch.setattr("experiments.vision.transfer.load_vision", lambda _: viewer.host)
    config = TransferConfig(
        task=("vqa-1", "vqa-4"), budget=(0.5, 0.1), policy=("sliding-window", "streaming-llm", "sirllm"), random=1,
        interval=16, episodes=4, batch=3, folder=tmp_path,
    )  # fmt: skip
    rows = transfer(config, Console(quiet=True))
    served = ["contents", "random-0", "sliding-window", "streaming-llm"]
    of = [(row.memory, row.budget) for row in rows if row.task == "vqa-4"]
    assert of == [("keep-all", WHOLE)] + [(name, budget) for budget in ("50%", "10%") for name in served]
    for row in rows:
        assert row.score == pytest.approx(np.mean(list(row.parts.values()))) and list(row.parts) == ["colour", "shape"]
        of_five, of_seventeen = {WHOLE: (5, 17), "50%": (2, 8), "10%": (1, 2)}[row.budget]
        assert row.kept == pytest.approx(of_seventeen / 17 if row.task == "vqa-4" else of_five / 5)
        assert (row.cue_kept is None) == (row.memory == "streaming-llm")
    text, page = (tmp_path / "transfer.md").read_text(), (tmp_path / "transfer.html").read_text()
    assert "## vqa-4 (4 clips of 4 steps on average)" in text and "| colour | shape |" in text
    assert "`sirllm`: sirllm asks for surprisal, which the image tokens" in text
    assert page.count("<figure") == 1 + 4 and page.count("crimson") == 2
    records = (tmp_path / "episodes.jsonl").read_text()
    assert len(records.splitlines()) == 2 * 4 * (1 + 2 * len(served)) and json.loads(records.splitlines()[0])["parts"]
    monkeypatch.setattr("experiments.transfer.run", None)
    assert transfer(config, Console(quiet=True)) == rows


def test_a_host_of_ones_own() -> None:
    task = VisionTransfer("vqa-4@runs/nowhere")
    assert (task.host, task.task.name, task.tokens) == ("runs/nowhere", "vqa-4", 17)
    with pytest.raises(FileNotFoundError, match="runs/nowhere: no vision host"):
        task.load()
