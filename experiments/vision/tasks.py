"""The vision tasks by name: clips of a picture among frames that show nothing, then questions about it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from experiments.vision.pictures import Question, blank, pictures


class Clip(NamedTuple):
    """Frames, the place of the one that shows something, and a question of every kind about it."""

    frames: UInt8[np.ndarray, "frame 64 64 3"]
    place: int
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class VisionTask:
    """Clips of so many frames, of easy-vqa's test pictures. host: a folder of hosts/pretrained."""

    name: str
    host: str
    frames: int

    def clip(self, seed: int) -> Clip:
        """The clip of a seed: another picture for each as long as they last, at a random place."""
        rng, found = np.random.default_rng([seed, self.frames]), pictures("test")
        picture, place = found[seed % len(found)], int(rng.integers(self.frames))
        frames = np.stack([picture.pixels() if i == place else blank(rng) for i in range(self.frames)])
        return Clip(frames, place, picture.ask(rng))


FRAMES = (1, 4, 16, 64)
TASKS = {f"vqa-{count}": VisionTask(f"vqa-{count}", "llava-smollm2", count) for count in FRAMES}


def find_task(name: str) -> VisionTask:
    """A task by name; ValueError for an unknown one."""
    if name not in TASKS:
        raise ValueError(f"unknown vision task {name!r}; expected one of {', '.join(TASKS)}")
    return TASKS[name]
