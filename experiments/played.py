"""What `namm transfer` measures: one played seed of a task, and the small interface that every kind of task has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from hosts.pytorch.cache import NammCache


@dataclass(frozen=True)
class Played:
    """One episode, or one clip with its questions.

    returned: return, or share of the questions answered right. steps: of the episode, or frames. cue: the step that
    shows what decides, None where there is none. cue_kept: share of layers and heads that hold its token (a frame's:
    mean) at the end, held: mean over all tokens read. kept: the same for every token, in the order they were read.
    cache_bytes, state_bytes: keys and values, and what the memory carries for them, at the end. seconds: the share of
    its batch's time. parts: what `returned` is the mean of, by name.
    """

    seed: int
    returned: float
    steps: int
    cue: int | None
    cue_kept: float | None
    held: float
    kept: tuple[float, ...] | None
    cache_bytes: int
    state_bytes: int
    seconds: float
    parts: dict[str, float] | None = None


@runtime_checkable
class Task(Protocol):
    """A task of `namm transfer`.

    host: what it is played with, by name. tokens: of the longest context, which budgets are shares of. controls: what
    plays it without a memory, by name. unit: what a seed is, step: what its context is made of. prompts: tasks of
    `namm evaluate` that it asks.
    """

    name: str
    host: str
    tokens: int
    controls: tuple[str, ...]
    unit: str
    step: str
    prompts: tuple[str, ...]

    @property
    def seeds(self) -> int | None:
        """How many there are, None where they do not end."""
        ...

    def load(self) -> Any:
        """The host, for `play`; FileNotFoundError where it is missing."""
        ...

    def model(self, host: Any) -> Any:
        """What a memory is attached to."""
        ...

    def play(self, host: Any, seeds: Sequence[int], control: str | None) -> list[Played]:
        """A batch, under the memory that is attached or as one of the controls; in the order of the seeds."""
        ...

    def score(self, returned: float) -> float:
        """What the table shows of `Played.returned`."""
        ...

    def by_step(self, kept: Sequence[float]) -> Float[np.ndarray, " step"]:
        """Kept share of every step, of that of every token."""
        ...

    def images(self, host: Any, seed: int) -> list[bytes]:
        """A PNG of every step; none where there is nothing to look at."""
        ...

    def words(self, host: Any, seed: int) -> tuple[str, ...]:
        """The text of every step; none where there is nothing to read."""
        ...


class Stayed(NamedTuple):
    """What stands in a row's cache: share of layers and heads that hold each token, bytes of cache and of state."""

    share: Float[np.ndarray, " token"]
    cache_bytes: int = 0
    state_bytes: int = 0

    def fields(self) -> dict[str, Any]:
        """Those of `Played` that say so."""
        kept = tuple(np.round(self.share, 3).tolist())
        sizes = {"cache_bytes": self.cache_bytes, "state_bytes": self.state_bytes}
        return {"held": float(self.share.mean()), "kept": kept, **sizes}


def stayed(cache: NammCache, row: int, tokens: int) -> Stayed:
    """Of the tokens that a row has read."""
    return Stayed(kept_share(cache, row, tokens), *row_bytes(cache, row))


def under_memory(cache: Any) -> NammCache:
    """A cache that a memory watches; ValueError for any other."""
    if not isinstance(cache, NammCache):
        raise ValueError('the model has no memory attached; attach one, "keep-all" for the full context')
    return cache


def kept_share(cache: NammCache, row: int, tokens: int) -> Float[np.ndarray, " token"]:
    """Share of layers and heads that hold each of the tokens read."""
    share = np.zeros(tokens)
    for layer in cache.memory_layers:
        positions, valid = (x[row] for x in layer.slots[2:])
        np.add.at(share, positions[valid].numpy(), 1.0 / (len(cache.memory_layers) * len(positions)))
    return share


def row_bytes(cache: NammCache, row: int) -> tuple[int, int]:
    """Keys and values of a row's held tokens, and the memory's state for them."""
    held = stated = 0
    for layer in cache.memory_layers:
        count = int(layer.held()[row].sum())
        held += count * sum(x.shape[-1] * x.element_size() for x in layer.parts[0][:2])
        stated += count * sum(x[0, 0, 0].numel() * x.element_size() for x in layer.state.slots.values() if x.shape[2])
    return held, stated
