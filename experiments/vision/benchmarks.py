"""LongVideoBench and MLVU: multiple-choice questions about videos, from the files that the benchmarks hand out.

Below the data folder (see docs/benchmarks.md):

- LongVideoBench, validation (arXiv 2407.15754; hub: longvideobench/LongVideoBench, gated, CC-BY-NC-SA): `lvb_val.json`
  and `videos/`.
- MLVU, development set (arXiv 2406.04264; hub: MLVU/MVLU, gated, CC-BY-NC-SA): `json/1_plotQA.json` to
  `json/7_topic_reasoning.json` and `video/1_plotQA/` to `video/7_topic_reasoning/`.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from transformers.video_utils import VideoMetadata, load_video

from experiments.tasks.corpora import OPTION, data_folder

MLVU = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")


@dataclass(frozen=True)
class VideoQuestion:
    """A question, its options and which of them (0 for the first) is right; group: what it is counted under.

    seconds: length of the video, None where sampling does not ask for it.
    """

    video: Path
    question: str
    options: tuple[str, ...]
    answer: int
    group: str
    seconds: float | None

    @property
    def asked(self) -> str:
        """LongVideoBench's wording."""
        lines = [f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(self.options)]
        last = "Answer with the option's letter from the given choices directly."
        return "\n".join([f"Question: {self.question}", *lines, last])


@functools.cache
def questions(benchmark: str, folder: Path) -> tuple[VideoQuestion, ...]:
    """All questions, in an order of which any beginning is a fair sample: drawn; MLVU's seven tasks take turns.

    folder: the benchmark's own. FileNotFoundError, KeyError and ValueError name the file at fault.
    """
    rng = np.random.default_rng(0)

    def shuffled(found: list[VideoQuestion]) -> list[VideoQuestion]:
        return [found[i] for i in rng.permutation(len(found))]

    if benchmark == "longvideobench":
        return tuple(shuffled(_items(folder / "lvb_val.json", functools.partial(_longvideobench, folder))))
    tasks = [
        shuffled(_items(folder / "json" / f"{task}.json", functools.partial(_mlvu, folder / "video" / task)))
        for task in MLVU
    ]
    return tuple(one for turn in zip_longest(*tasks) for one in turn if one is not None)


def benchmark_folder(name: str) -> Path:
    """The folder of a benchmark in the data folder; FileNotFoundError that says what belongs there."""
    if (folder := data_folder()) is None or not (folder / name).is_dir():
        raise FileNotFoundError(f"{name}: {OPTION} must name a folder with {name} in it, see docs/benchmarks.md")
    return folder / name


def _items(path: Path, build: Callable[[dict[str, Any]], VideoQuestion]) -> list[VideoQuestion]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found, see docs/benchmarks.md")
    try:
        return [build(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (KeyError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error


def _longvideobench(folder: Path, row: dict[str, Any]) -> VideoQuestion:
    return VideoQuestion(
        folder / "videos" / row["video_path"],
        row["question"],
        tuple(row["candidates"]),
        int(row["correct_choice"]),
        f"{row['duration_group']} s",
        float(row["duration"]),
    )


def _mlvu(videos: Path, row: dict[str, Any]) -> VideoQuestion:
    options = tuple(map(str, row["candidates"]))
    place = options.index(str(row["answer"]))
    return VideoQuestion(videos / row["video"], row["question"], options, place, row["question_type"], None)


def read_frames(question: VideoQuestion, most: int) -> UInt8[np.ndarray, "frame height width 3"]:
    """Frames of a question's video, spread over it as its benchmark does.

    From the start of equal parts, at most one a second, where a length is stated, else from their middles.
    FileNotFoundError without the video, ValueError where it cannot be decoded.
    """
    if not question.video.is_file():
        raise FileNotFoundError(f"{question.video}: not found, see docs/benchmarks.md")

    read: Any = load_video  # its annotations leave out paths

    def spread(metadata: VideoMetadata, **_: Any) -> list[int]:
        return _places(metadata, question.seconds, most)

    try:
        return read(str(question.video), backend="pyav", sample_indices_fn=spread)[0]
    except (OSError, ValueError) as error:
        raise ValueError(f"{question.video}: no frames could be read: {error}") from error


def _places(metadata: VideoMetadata, seconds: float | None, most: int) -> list[int]:
    if seconds is None:
        part = (metadata.total_num_frames - 1) / most
        return [int(part / 2 + np.round(part * i)) for i in range(most)]
    count, rate = max(1, min(most, int(seconds))), float(metadata.fps or 0.0)
    return [int(seconds * rate) // count * i for i in range(count)]
