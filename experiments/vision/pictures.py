"""What clips are made of: pictures with questions about them, and frames that show nothing."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Split = Literal["train", "test"]


class Question(NamedTuple):
    """A question of one of its album's kinds."""

    kind: str
    text: str
    answer: str


@runtime_checkable
class Picture(Protocol):
    """An image and all that is asked about it, at least one question of every kind."""

    @property
    def questions(self) -> tuple[Question, ...]: ...
    def pixels(self) -> UInt8[np.ndarray, "64 64 3"]: ...


@dataclass(frozen=True)
class Album:
    """Pictures by split, frames that show nothing and the answers to every kind of question."""

    answers: Mapping[str, tuple[str, ...]]
    pictures: Callable[[Split], tuple[Picture, ...]]
    blank: Callable[[np.random.Generator], UInt8[np.ndarray, "64 64 3"]]

    def ask(self, picture: Picture, rng: np.random.Generator) -> tuple[Question, ...]:
        """One question of every kind, in the wording that the draw falls on."""
        found = [[one for one in picture.questions if one.kind == kind] for kind in self.answers]
        return tuple(kind[int(rng.integers(len(kind)))] for kind in found)


def png(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """An image as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
