"""Binds host, memory and tasks into the search's evaluation function.

Recorded: contexts are read once with the full cache and kept; a candidate evicts from the record and only question and
answer are run again ("compress after prefill"). Streaming: the memory acts while the context is read, as in use.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.prompts import PromptSource, Widths, fit, resolve_budget
from experiments.tasks import Split
from experiments.tasks.encoding import Batch
from hosts.llama import Params
from hosts.rollout import Likelihood, Schedule, likelihood, prefill, record, settled
from hosts.stream import Engine, Stream, compress, make_engine, population, tile_rows, unwatched
from namm.artefact import Memory
from namm.contract import NO_PARAMETERS, Parameters
from namm.memory import Layout
from namm.policies import load_policy
from namm.selection import SelectionConfig

FULL = "keep-all"  # the policy that is the host's own full cache
KEEP_ALL = SelectionConfig(threshold=None)


class Outcome(NamedTuple):
    """Per candidate and prompt: is greedy decoding the target, mean log-likelihood of a target token, kept share."""

    exact: Float[Array | np.ndarray, "pop prompt"]
    grade: Float[Array | np.ndarray, "pop prompt"]
    kept: Float[Array | np.ndarray, "pop prompt"]


class Record(NamedTuple):
    """One prompt read with the full cache (leaves without a batch axis), and how the full cache answers it."""

    stream: Stream
    prompt: Batch
    exact: np.ndarray
    grade: np.ndarray


@dataclass(frozen=True)
class UseConfig:
    """How a memory is used while it is scored.

    mode: "recorded" or "streaming". budget: kept tokens (int), share of the context (float) or None for the memory's
    own threshold. capacity: slots for kept tokens where no budget says so. chunk: tokens the host reads at once.
    """

    mode: str = "recorded"
    budget: int | float | None = 0.125
    capacity: int = 1024
    chunk: int = 128

    def __post_init__(self) -> None:
        if self.mode not in ("recorded", "streaming"):
            raise ValueError(f"mode is {self.mode!r}; expected 'recorded' or 'streaming'")
        if self.chunk < 1 or self.capacity < 1:
            raise ValueError(f"chunk is {self.chunk} and capacity {self.capacity}; expected 1 or more")

    def kept(self, width: int) -> int:
        """Static slots for kept tokens at a context width."""
        if isinstance(self.budget, float):
            return int(np.ceil(self.budget * width))
        return min(self.capacity, width) if self.budget is None else self.budget


def full_answer(engine: Engine, params: Params, stream: Stream, prompt: Batch, kept: int) -> Likelihood:
    """How a host answers with the cache as it stands; `kept` slots hold the context."""
    plain = Engine(engine.spec, load_policy(FULL), KEEP_ALL, engine.length)
    budget = jnp.full((stream.seen.shape[0],), kept, jnp.int32)
    asked = map(jnp.asarray, prompt[2:])
    return likelihood(
        plain, params, NO_PARAMETERS, unwatched(stream), *asked, budget=budget, schedule=settled(kept)
    )


def summarise(answers: Likelihood, pop: int) -> tuple[Float[Array, "pop prompt"], Float[Array, "pop prompt"]]:
    """Exact match under greedy decoding and mean log-likelihood a target token."""
    exact = jnp.all(answers.greedy | ~answers.valid, axis=1)
    grade = jnp.sum(answers.log_probability, axis=1) / jnp.sum(answers.valid, axis=1)
    return exact.reshape(pop, -1).astype(jnp.float32), grade.reshape(pop, -1)


@partial(jax.jit, static_argnums=(0, 3))
def record_batch(engine: Engine, params: Params, prompt: Batch, chunk: int, key: Array) -> tuple[Stream, Array, Array]:
    """Full-cache pass over contexts and the full cache's own answers."""
    stream = record(engine, params, prompt.context, prompt.context_length, chunk, key)
    answers = full_answer(engine, params, stream, prompt, stream.cache.keys.shape[3])
    exact, grade = summarise(answers, 1)
    return stream, exact[0], grade[0]


@partial(jax.jit, static_argnums=(0, 6))
def score_recorded(
    engine: Engine, params: Params, memory: Parameters, stream: Stream, prompt: Batch, budget: Array, kept: int
) -> Outcome:
    """Every candidate evicts from the records, then answers."""
    pop = population(memory)
    small = compress(engine, memory, stream, budget, Layout(kept, 0))
    exact, grade = summarise(full_answer(engine, params, small, tile_rows(prompt, pop), kept), pop)
    return Outcome(exact, grade, kept_share(small, pop))


@partial(jax.jit, static_argnums=(0, 5))
def score_streaming(
    engine: Engine, params: Params, memory: Parameters, prompt: Batch, budget: Array, schedule: Schedule, key: Array
) -> Outcome:
    """Every candidate evicts while the contexts are read, then answers."""
    pop = population(memory)
    stream = prefill(
        engine, params, memory, prompt.context, prompt.context_length, budget, schedule=schedule, key=key
    )
    asked = tile_rows(prompt[2:], pop)
    answers = likelihood(engine, params, memory, stream, *asked, budget=budget, schedule=schedule)
    return Outcome(*summarise(answers, pop), kept_share(stream, pop))


def kept_share(stream: Stream, pop: int) -> Float[Array, "pop prompt"]:
    """Occupied slots over tokens read, mean over layers and heads."""
    held = jnp.mean(jnp.sum(stream.cache.valid, axis=-1), axis=(0, 2))
    return (held / jnp.maximum(stream.seen, 1)).reshape(pop, -1)


@dataclass
class RecordPool:
    """The records last used, bounded: prompts are drawn from them, and fresh ones keep arriving."""

    engine: Engine
    params: Params
    source: PromptSource
    chunk: int
    size: int
    batch: int = 8
    records: "OrderedDict[tuple[Split, int], Record]" = field(default_factory=OrderedDict)

    def get(self, split: Split, indices: list[int]) -> list[Record]:
        """Records of these prompts, made where missing; beyond `size` those longest unused are dropped."""
        missing = [index for index in indices if (split, index) not in self.records]
        for begin in range(0, len(missing), self.batch):
            part = missing[begin : begin + self.batch]
            filled = part + part[-1:] * (self.batch - len(part))  # one batch shape, one compilation
            made = self._record(split, filled)
            self.records.update({(split, index): one for index, one in zip(part, made, strict=False)})
        for index in indices:
            self.records.move_to_end((split, index))
        found = [self.records[split, index] for index in indices]
        while len(self.records) > self.size:
            self.records.popitem(last=False)
        return found

    def _record(self, split: Split, indices: list[int]) -> list[Record]:
        prompt = self.source.batch(split, indices)
        stream, exact, grade = record_batch(self.engine, self.params, prompt, self.chunk, jax.random.key(0))
        host = jax.tree.map(np.asarray, stream)
        return [
            Record(_row(host, i), Batch(*(x[i] for x in prompt)), np.asarray(exact)[i], np.asarray(grade)[i])
            for i in range(len(indices))
        ]


def _row(stream: Stream, i: int) -> Stream:
    layered = jax.tree.map(lambda x: x[:, i], stream[:2])
    return Stream(*layered, *(x[i] for x in stream[2:]))


def stack(records: list[Record]) -> tuple[Stream, Batch]:
    """Records side by side as one batch."""
    streams = [one.stream for one in records]
    layered = jax.tree.map(lambda *xs: np.stack(xs, axis=1), *(s[:2] for s in streams))
    rest = (np.stack(xs) for xs in zip(*(s[2:] for s in streams), strict=True))
    widths = Widths(*(max(getattr(one.prompt, part).shape[-1] for one in records) for part in Batch._fields[::2]))
    prompt: Any = (np.stack(x) for x in zip(*(fit(one.prompt, widths) for one in records), strict=True))
    return Stream(*layered, *rest), Batch(*prompt)


def spectrum_statistics(records: list[Record]) -> dict[str, Array]:
    """Frozen normalisation: mean and variance per frequency over layers, heads, tokens and prompts, nothing evicted."""
    rows = [one.stream.state.slots["average"][one.stream.cache.valid] for one in records]
    values = np.concatenate(rows).astype(np.float64)
    return {"mean": jnp.asarray(values.mean(0), jnp.float32), "variance": jnp.asarray(values.var(0), jnp.float32)}


def engine_for(memory: Memory, source: PromptSource) -> Engine:
    """The static part of a rollout of this memory on the source's host."""
    return make_engine(source.host.spec, memory.policy, memory.selection, source.mix.length)


def budgets(use: UseConfig, prompt: Batch, kept: int, selection: SelectionConfig) -> Any:
    return jnp.asarray(resolve_budget(use.budget, np.asarray(prompt.context_length), kept, selection.protected))
