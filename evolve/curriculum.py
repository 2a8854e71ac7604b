"""Stages of a search: what is evaluated changes, the whole search state is carried over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any


@dataclass(frozen=True)
class Stage:
    """A number of generations on one thing. `payload` goes to the evaluation function untouched (tasks, lengths)."""

    name: str
    generations: int
    payload: Any = field(default_factory=dict)

    def __post_init__(self):
        if self.generations < 1:
            raise ValueError(f"stage {self.name!r}: got {self.generations} generations, expected at least 1")
        frozen = getattr(getattr(type(self.payload), "__dataclass_params__", None), "frozen", False)
        if not (frozen or isinstance(self.payload, Mapping)):
            raise ValueError(
                f"stage {self.name!r}: got a payload of type {type(self.payload).__name__}, "
                "expected a frozen dataclass or a mapping"
            )


@dataclass(frozen=True)
class Curriculum:
    """Stages in order.

    At a boundary the search state continues (mean, scales, step size, paths). The best validation value does not:
    values of different stages are not comparable, so the best mean is that of the last stage reached.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self):
        names = [stage.name for stage in self.stages]
        if not names:
            raise ValueError("curriculum: got no stages, expected at least one")
        if len(set(names)) < len(names):
            raise ValueError(f"curriculum: got stage names {names}, expected each name once")

    @property
    def generations(self) -> int:
        """Generations of all stages together."""
        return sum(stage.generations for stage in self.stages)

    def index_at(self, generation: int) -> int:
        """Index of the stage that generation `generation`, counted from 0, belongs to; the last one beyond the end."""
        if generation < 0:
            raise ValueError(f"generation: got {generation}, expected zero or more")
        ends = accumulate(stage.generations for stage in self.stages)
        return next((i for i, end in enumerate(ends) if generation < end), len(self.stages) - 1)

    def stage_at(self, generation: int) -> Stage:
        """The stage that generation `generation`, counted from 0, belongs to."""
        return self.stages[self.index_at(generation)]
