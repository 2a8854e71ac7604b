"""The vision tasks by name: clips of a picture among frames that show nothing, then questions about it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from experiments.vision.pictures import Album, Question
from experiments.vision.robots import ROBOTS
from experiments.vision.shapes import SHAPES


class Clip(NamedTuple):
    """Frames, the place of the one that shows something, and a question of every kind about it."""

    frames: UInt8[np.ndarray, "frame 64 64 3"]
    place: int
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class VisionTask:
    """Clips of so many frames, of an album's test pictures. host: a folder of hosts/pretrained."""

    name: str
    host: str
    frames: int
    album: Album

    def clip(self, seed: int) -> Clip:
        """The clip of a seed: another picture for each as long as they last, at a random place."""
        rng, found = np.random.default_rng([seed, self.frames]), self.album.pictures("test")
        picture, place = found[seed % len(found)], int(rng.integers(self.frames))
        frames = np.stack([picture.pixels() if i == place else self.album.blank(rng) for i in range(self.frames)])
        return Clip(frames, place, self.album.ask(picture, rng))


FRAMES = (1, 4, 16, 64)
_ALBUMS = {"vqa": ("llava-smollm2", SHAPES), "robots": ("llava-robots", ROBOTS)}
_MADE = [VisionTask(f"{family}-{n}", host, n, album) for family, (host, album) in _ALBUMS.items() for n in FRAMES]
TASKS = {task.name: task for task in _MADE}


def find_task(name: str) -> VisionTask:
    """A task by name; ValueError for an unknown one."""
    if name not in TASKS:
        raise ValueError(f"unknown vision task {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]
