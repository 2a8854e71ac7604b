"""LongVideoBench and MLVU as `namm transfer` plays them: a video is read under a memory, then comes the question."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from experiments.played import Played, stayed, under_memory
from experiments.vision.benchmarks import benchmark_folder, questions, read_frames
from experiments.vision.pictures import png
from hosts.pytorch import settle
from hosts.pytorch.video import VideoHost, load_video

HOST = "llava-hf/LLaVA-NeXT-Video-7B-hf"
FOLDERS = {"longvideobench": "LongVideoBench", "mlvu": "MLVU"}
FRAME_TOKENS = 144  # 24 x 24 patches of 14 pixels, pooled by 2
THUMBNAIL = 96  # pixels


class Watcher:
    """A video host that decodes every video once, however many memories watch it (8 MB for 24 frames)."""

    def __init__(self, host: VideoHost):
        self.host = host
        self.seen: dict[str, Float[Tensor, "frame 3 side side"]] = {}


class VideoTransfer:
    """Questions of a benchmark about videos of at most so many frames, `longvideobench-24`; a step is a frame's tokens.

    The memory reads the video, updates once more at its end, and meets the question after that. The option whose letter
    is the likeliest next token is the answer. A seed is a question's number, see `questions`. What was kept is said of
    the frames' tokens alone. Without subtitles.
    """

    controls, unit, step, prompts = (), "questions", "frame", ()

    def __init__(self, name: str):
        benchmark, _, frames = name.partition("-")
        if benchmark not in FOLDERS or not frames.isdecimal() or not int(frames):
            expected = " or ".join(f"{one}-24" for one in FOLDERS)
            raise ValueError(f"unknown video task {name!r}; expected a benchmark and the most frames, as {expected}")
        self.name, self.host, self.frames, self.tokens = name, HOST, int(frames), FRAME_TOKENS * int(frames)
        self.questions = questions(benchmark, benchmark_folder(FOLDERS[benchmark]))
        self.seeds = len(self.questions)
        self.longest = max((one.asked for one in self.questions), key=len)

    def load(self) -> Watcher:
        return Watcher(load_video(self.host))

    def model(self, host: Watcher) -> Any:
        """ValueError where the longest question would not fit behind the frames."""
        words = sum(map(len, host.host.prompt(self.longest)))
        if words + self.tokens > host.host.positions:
            most = (host.host.positions - words) // FRAME_TOKENS
            raise ValueError(f"{self.name}: {self.host} has room for {most} frames and a question; take fewer")
        return host.host.model

    def play(self, host: Watcher, seeds: Sequence[int], control: str | None) -> list[Played]:
        return [self._watch(host, seed) for seed in seeds]

    @torch.inference_mode()
    def _watch(self, host: Watcher, seed: int) -> Played:
        begin, asked = time.perf_counter(), self.questions[seed]
        if (key := str(asked.video)) not in host.seen:
            host.seen[key] = host.host.pixels(read_frames(asked, self.frames))
        pixels = host.seen[key]
        cache = under_memory(host.host.read(pixels))
        settle(host.host.model)
        before = len(host.host.prompt()[0])
        found = stayed(cache, 0, before + FRAME_TOKENS * len(pixels))
        right = float(host.host.choose(cache, asked.asked, len(asked.options)) == asked.answer)
        return Played(
            seed=seed,
            returned=right,
            steps=len(pixels),
            cue=None,
            cue_kept=None,
            seconds=time.perf_counter() - begin,
            parts={asked.group: right},
            **found._replace(share=found.share[before:]).fields(),
        )

    def score(self, returned: float) -> float:
        return returned

    def by_step(self, kept: Sequence[float]) -> Float[np.ndarray, " step"]:
        return np.reshape(kept, (-1, FRAME_TOKENS)).mean(1)

    def images(self, host: Watcher, seed: int) -> list[bytes]:
        frames = [Image.fromarray(frame) for frame in read_frames(self.questions[seed], self.frames)]
        for frame in frames:
            frame.thumbnail((THUMBNAIL, THUMBNAIL))
        return [png(np.asarray(frame)) for frame in frames]

    def words(self, host: Watcher, seed: int) -> tuple[str, ...]:
        return ()
