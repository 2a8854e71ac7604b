"""The pictures of easy-vqa, a coloured shape each, with its questions, and frames without a shape."""

import functools
from pathlib import Path
from typing import NamedTuple

import easy_vqa
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.vision.pictures import Album, Question, Split

ANSWERS = {
    "colour": ("red", "green", "blue", "gray", "teal", "black", "yellow", "brown"),
    "shape": ("circle", "rectangle", "triangle"),
}


class Shape(NamedTuple):
    """An image of easy-vqa and all that is asked about its colour and its shape."""

    path: Path
    questions: tuple[Question, ...]

    def pixels(self) -> UInt8[np.ndarray, "64 64 3"]:
        with Image.open(self.path) as image:
            return np.array(image.convert("RGB"))


@functools.cache
def pictures(split: Split) -> tuple[Shape, ...]:
    """The pictures of a split about which both kinds are asked, by number. Yes-or-no questions are left out."""
    if split == "train":
        questions, paths = easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths()
    else:
        questions, paths = easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths()
    asked: dict[int, list[Question]] = {}
    for text, answer, number in zip(*questions, strict=True):
        for kind, answers in ANSWERS.items():
            if answer in answers:
                asked.setdefault(number, []).append(Question(kind, text, answer))
    full = {n: found for n, found in asked.items() if {one.kind for one in found} == set(ANSWERS)}
    return tuple(Shape(Path(paths[n]), tuple(full[n])) for n in sorted(full))


def blank(rng: np.random.Generator) -> UInt8[np.ndarray, "64 64 3"]:
    """A frame that shows nothing: a plain, shaded or noisy background as light as easy-vqa's own (230 to 255)."""
    low, high = rng.uniform(230, 255, (2, 3))
    style = rng.integers(3)
    frame = np.broadcast_to(low, (64, 64, 3))
    if style == 1:  # from one colour to another, along either axis
        along = np.linspace(0, 1, 64)[:, None]
        frame = np.broadcast_to((low + along * (high - low))[:, None], (64, 64, 3))
        frame = frame.swapaxes(0, 1) if rng.integers(2) else frame
    if style == 2:
        frame = frame + rng.normal(0, 12, frame.shape)
    return np.clip(frame, 0, 255).round().astype(np.uint8)


SHAPES = Album(ANSWERS, pictures, blank)
