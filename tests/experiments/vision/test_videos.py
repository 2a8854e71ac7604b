"""LongVideoBench and MLVU: questions from their files, frames of real videos, answers under a memory."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from rich.console import Console

from experiments.transfer import TransferConfig, find_task, transfer
from experiments.vision import videos
from experiments.vision.benchmarks import MLVU, questions, read_frames
from experiments.vision.videos import VideoTransfer, Watcher
from hosts.pytorch import attach
from hosts.pytorch.video import VideoHost, load_video
from namm.artefact import load, training_free
from tests.experiments.vision.tiny import save_video_host

RATE, STEP = 4, 10  # frames a second; how much brighter each one is than the last


def film(path: Path, frames: int) -> None:
    """A video whose frames are plain, each brighter than the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE), options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i in range(frames):
            pixels = np.full((32, 48, 3), STEP * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of a film these are."""
    return np.round(frames.mean((1, 2, 3)) / STEP).astype(int).tolist()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four questions of LongVideoBench about three videos, 14 of MLVU."""
    folder = tmp_path_factory.mktemp("data")
    bench, rows = folder / "LongVideoBench", []
    for number, (name, group, frames) in enumerate([("a", 15, 12), ("a", 15, 12), ("b", 15, 20), ("c", 3600, 24)]):
        film(bench / "videos" / f"{name}.mp4", frames)
        options = [f"{number} {i}" for i in range(4 + number % 2)]
        rows.append({
            "id": str(number), "question": f"What is {number} .", "candidates": options, "correct_choice": number % 3,
            "video_path": f"{name}.mp4", "duration": frames / RATE, "duration_group": group, "question_category": "S2E",
        })  # fmt: skip
    (bench / "lvb_val.json").write_text(json.dumps(rows))
    for task in MLVU:
        film(folder / "MLVU" / "video" / task / "v.mp4", 24)
        options = ["one", "two", "three", 4]
        asked = [{"question": f"{i} of {task}", "answer": options[3 - i], "candidates": options} for i in range(2)]
        path = folder / "MLVU" / "json" / f"{task}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps([{**one, "video": "v.mp4", "question_type": task[2:]} for one in asked]))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    save_video_host(folder := tmp_path_factory.mktemp("host"))
    return folder


@pytest.fixture(scope="module")
def host(folder: Path) -> VideoHost:
    return load_video(folder, torch.float32)


@pytest.fixture(autouse=True)
def used(data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMM_DATA", str(data))
    monkeypatch.setattr(videos, "HOST", str(folder))
    monkeypatch.setattr(videos, "FRAME_TOKENS", 4)


def test_questions_as_they_are_handed_out(data: Path) -> None:
    found = questions("longvideobench", data / "LongVideoBench")
    assert sorted(one.question for one in found) == [f"What is {i} ." for i in range(4)]
    one = next(one for one in found if one.question == "What is 1 .")
    assert one.asked == (
        "Question: What is 1 .\nA. 1 0\nB. 1 1\nC. 1 2\nD. 1 3\nE. 1 4\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (one.answer, one.group, one.seconds) == (1, "15 s", 3.0)
    turns = questions("mlvu", data / "MLVU")
    assert [one.group for one in turns] == [task[2:] for task in MLVU] * 2
    assert {(one.question[0], one.options[one.answer]) for one in turns} == {("0", "4"), ("1", "three")}


def test_frames_are_spread_as_each_benchmark_does(data: Path) -> None:
    """24 frames in 6 seconds: from the start of six or four equal parts; the middles of four parts of 5.75."""
    long = next(one for one in questions("longvideobench", data / "LongVideoBench") if one.group == "3600 s")
    assert numbers(read_frames(long, 4)) == [0, 6, 12, 18]
    assert numbers(read_frames(long, 10)) == [0, 4, 8, 12, 16, 20]
    assert read_frames(long, 4).shape == (4, 32, 48, 3)
    other = questions("mlvu", data / "MLVU")[0]
    assert numbers(read_frames(other, 4)) == [2, 8, 14, 19]


def stock_choice(host: VideoHost, task: VideoTransfer, seed: int) -> int:
    """What the stock model answers to the whole prompt, written out as its processor does."""
    asked = task.questions[seed]
    pixels = host.pixels(read_frames(asked, task.frames))[None]
    text = f"USER: {'<video>' * (4 * pixels.shape[1])}\n{asked.asked} ASSISTANT:"
    ids = torch.tensor([host.tokenizer(text).input_ids])
    with torch.no_grad():
        logits = host.model(input_ids=ids, pixel_values_videos=pixels).logits[0, -1]
    letters = host.tokenizer.convert_tokens_to_ids(list("ABCDE")[: len(asked.options)])
    return int(logits[letters].argmax())


def test_everything_kept_answers_as_the_stock_model(host: VideoHost) -> None:
    task, said = VideoTransfer("longvideobench-4"), []
    with attach(host.model, "keep-all", interval=8):
        played = task.play(Watcher(host), [0, 1, 2, 3], None)
    for one in played:
        asked = task.questions[one.seed]
        said.append(stock_choice(host, task, one.seed))
        assert one.returned == float(said[-1] == asked.answer) and one.parts == {asked.group: one.returned}
        assert one.steps == (3 if asked.seconds == 3.0 else 4)
        assert one.held == 1.0 and one.kept == (1.0,) * (4 * one.steps)
    assert len(set(said)) > 1


def test_a_cut_context_holds_its_newest_frames(host: VideoHost) -> None:
    """Budget 6: a frame and a half of four tokens each."""
    task = VideoTransfer("mlvu-4")
    with attach(host.model, training_free("sliding-window"), 6, 8):
        (one,) = task.play(Watcher(host), [3], None)
    np.testing.assert_array_equal(task.by_step(one.kept), [0, 0, 0.5, 1])
    assert one.cache_bytes == 6 * 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, 8 floats
    assert len(task.images(Watcher(host), 3)) == 4 and task.images(Watcher(host), 3)[0].startswith(b"\x89PNG")


def test_a_video_is_decoded_once(host: VideoHost, monkeypatch: pytest.MonkeyPatch) -> None:
    task, decoded = VideoTransfer("longvideobench-4"), []
    monkeypatch.setattr(videos, "read_frames", lambda *asked: decoded.append(asked) or read_frames(*asked))
    watcher = Watcher(host)
    with attach(host.model, load("smollm2"), 6, 16):
        first = task.play(watcher, [0, 1, 2, 3], None)
        again = task.play(watcher, [0, 1, 2, 3], None)
    assert len(decoded) == 3
    assert [replace(one, seconds=0.0) for one in first] == [replace(one, seconds=0.0) for one in again]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader's own precision; groups as columns; a second time nothing is read."""
    config = TransferConfig(
        task=("longvideobench-4", "mlvu-2"), budget=(0.5,), policy=("keydiff", "streaming-llm"), random=1, interval=16,
        episodes=4, folder=tmp_path,
    )  # fmt: skip
    rows = transfer(config, Console(quiet=True))
    entries = ("keep-all", "contents", "random-0", "keydiff", "streaming-llm")
    assert [(row.task, row.memory) for row in rows] == [(task, name) for task in config.task for name in entries]
    for row in rows:
        groups = {"15 s": 3, "3600 s": 1} if row.task == "longvideobench-4" else {task[2:]: 1 for task in MLVU[:4]}
        assert row.parts and set(row.parts) == set(groups)
        assert row.score == pytest.approx(sum(row.parts[name] * count for name, count in groups.items()) / 4)
    text = (tmp_path / "transfer.md").read_text()
    assert "## mlvu-2 (4 questions of 2 steps on average)" in text and "| plotQA | needle | ego | count |" in text
    assert (tmp_path / "transfer.html").read_text().count("<figure") == 4 + 2  # frames of the first question of each
    monkeypatch.setattr("experiments.transfer.run", None)
    assert transfer(config, Console(quiet=True)) == rows


def test_what_cannot_work_is_said(data: Path, host: VideoHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mlvu", "mlvu-0", "longvideobench-x"):
        with pytest.raises(ValueError, match="unknown video task"):
            find_task(name)
    with pytest.raises(ValueError, match=r"room for \d+ frames"):
        VideoTransfer("mlvu-24").model(Watcher(host))
    with pytest.raises(ValueError, match="mlvu-4 has 14 questions; got 10 from 5 on"):
        transfer(TransferConfig(task=("mlvu-4",), seed=5, episodes=10, folder=tmp_path / "out"), Console(quiet=True))
    with pytest.raises(ValueError, match="no memory attached"):
        VideoTransfer("mlvu-4").play(Watcher(host), [0], None)
    with pytest.raises(FileNotFoundError, match="no such folder, and the hub"):
        load_video(tmp_path / "absent")
    broken = tmp_path / "MLVU"
    shutil.copytree(data / "MLVU", broken)
    one = questions("mlvu", broken)[0]
    one.video.write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"v\.mp4: no frames could be read"):
        read_frames(one, 4)
    one.video.unlink()
    with pytest.raises(FileNotFoundError, match=r"v\.mp4: not found"):
        read_frames(one, 4)
    questions.cache_clear()
    (broken / "json" / "3_ego.json").write_text('[{"question": "?"}]')
    with pytest.raises(KeyError, match=r"3_ego\.json.*candidates"):
        questions("mlvu", broken)
    (broken / "json" / "3_ego.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"3_ego\.json"):
        questions("mlvu", broken)
    monkeypatch.setenv("NAMM_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="LongVideoBench: --data-dir"):
        find_task("longvideobench-24")
