"""Binds host, memory and tasks into the search's evaluation function.

Recorded: contexts are read once with the full cache and kept; a candidate evicts from the record and only question and
answer are run again ("compress after prefill"). Streaming: the memory acts while the context is read, as in use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.prompts import Budget, PromptSource, resolve_budget
from experiments.tasks.encoding import Batch
from hosts.answering import Likelihood, likelihood, settled
from hosts.llama import Params
from hosts.rollout import Schedule, read_apart, read_together
from hosts.spec import HostSpec
from hosts.stream import Engine, Stream, compress, make_engine, population, take_rows, tile_rows, unwatched
from namm.artefact import Memory
from namm.contract import NO_PARAMETERS, Parameters
from namm.memory import Layout
from namm.policies import load_policy
from namm.selection import SelectionConfig

FULL = "keep-all"  # the policy that is the host's own full cache
KEEP_ALL = SelectionConfig(threshold=None)
CPU_ROWS = 16  # candidates x prompts at once; on two cores 32 take SmolLM2 a tenth more time a row, 8 the pocket host

Prompts = tuple[Stream, Batch, Array]  # what was read of a batch, the prompts themselves, tokens each may keep


class Outcome(NamedTuple):
    """Per candidate and prompt: is greedy decoding the target, mean log-likelihood of a target token, kept share."""

    exact: Float[Array | np.ndarray, "pop prompt"]
    grade: Float[Array | np.ndarray, "pop prompt"]
    kept: Float[Array | np.ndarray, "pop prompt"]


@dataclass(frozen=True)
class UseConfig:
    """How a memory is used while it is scored.

    mode: "recorded" or "streaming". budget: kept tokens (int), share of the context (float), several shares that the
    samples of a task take in turn, or None for the memory's own threshold. capacity: slots for kept tokens where no
    budget says so. chunk: tokens the host reads at once.
    """

    mode: str = "recorded"
    budget: Budget | tuple[float, ...] = 0.125
    capacity: int = 1024
    chunk: int = 128

    def __post_init__(self) -> None:
        if self.mode not in ("recorded", "streaming"):
            raise ValueError(f"mode is {self.mode!r}; expected 'recorded' or 'streaming'")
        if self.chunk < 1 or self.capacity < 1:
            raise ValueError(f"chunk is {self.chunk} and capacity {self.capacity}; expected 1 or more")
        if not self.each:
            raise ValueError("budget is empty; expected a number of tokens, one or more shares, or None")

    @property
    def each(self) -> tuple[Budget, ...]:
        """The budgets, one by one."""
        return tuple(self.budget) if isinstance(self.budget, tuple) else (self.budget,)

    def kept(self, width: int, widest: int = 1) -> int:
        """Static slots for kept tokens at a context width; widest: budgets that a head may hold (`SelectionConfig`)."""
        slots = max(self._slots(budget, width) for budget in self.each)
        return max(slots, min(widest * slots, width))

    def least(self, width: int) -> float:
        """The smallest budget as a share of a context of this width."""
        return min(self._slots(budget, width) for budget in self.each) / width

    def _slots(self, budget: Budget, width: int) -> int:
        if isinstance(budget, float):
            return int(np.ceil(budget * width))
        return min(self.capacity, width) if budget is None else budget


def full_cache(spec: HostSpec, length: int) -> Engine:
    """A host without a memory; length: positions in use (see `Engine`)."""
    return Engine(spec, load_policy(FULL), KEEP_ALL, length)


def full_answer(engine: Engine, params: Params, stream: Stream, prompt: Batch, kept: int) -> Likelihood:
    """How a host answers with the cache as it stands; `kept` slots hold the context."""
    budget = jnp.full((stream.seen.shape[0],), kept, jnp.int32)
    asked = map(jnp.asarray, prompt[2:])
    host = full_cache(engine.spec, engine.length)
    return likelihood(host, params, NO_PARAMETERS, unwatched(stream), *asked, budget=budget, schedule=settled(kept))


def summarise(answers: Likelihood, pop: int) -> tuple[Float[Array, "pop prompt"], Float[Array, "pop prompt"]]:
    """Exact match under greedy decoding and mean log-likelihood a target token."""
    exact = jnp.all(answers.greedy | ~answers.valid, axis=1)
    grade = jnp.sum(answers.log_probability, axis=1) / jnp.sum(answers.valid, axis=1)
    return exact.reshape(pop, -1).astype(jnp.float32), grade.reshape(pop, -1)


@partial(jax.jit, static_argnums=(0, 6))
def score_recorded(
    engine: Engine, params: Params, memory: Parameters, stream: Stream, prompt: Batch, budget: Array, kept: int
) -> Outcome:
    """Every candidate evicts from the records, then answers."""

    def score(memory: Parameters, some: Prompts) -> Outcome:
        pop, (stream, prompt, budget) = population(memory), some
        small = compress(engine, memory, stream, budget, Layout(kept, 0))
        exact, grade = summarise(full_answer(engine, params, small, tile_rows(prompt, pop), kept), pop)
        return Outcome(exact, grade, kept_share(small, pop))

    return _in_groups(score, memory, (stream, prompt, budget))


@partial(jax.jit, static_argnums=(0, 5))
def score_streaming(
    engine: Engine, params: Params, memory: Parameters, prompt: Batch, budget: Array, schedule: Schedule, key: Array
) -> Outcome:
    """Every candidate evicts while the contexts are read, then answers."""
    shared = read_together(engine, params, memory, prompt.context, prompt.context_length, budget, schedule, key)

    def score(memory: Parameters, some: Prompts) -> Outcome:
        pop, (stream, prompt, budget) = population(memory), some
        context = prompt.context, prompt.context_length
        stream = read_apart(engine, params, memory, shared._replace(stream=stream), *context, budget, schedule)
        asked = tile_rows(prompt[2:], pop)
        answers = likelihood(engine, params, memory, stream, *asked, budget=budget, schedule=schedule)
        return Outcome(*summarise(answers, pop), kept_share(stream, pop))

    return _in_groups(score, memory, (shared.stream, prompt, budget))


def _in_groups(score: Callable[[Parameters, Prompts], Outcome], memory: Parameters, read: Prompts) -> Outcome:
    """All candidates and prompts at once; on a CPU group after group, as its caches hold what a few rows need.

    A group has many candidates and few prompts: what the scorer sees of a prompt is worked out once a group.
    """
    pop, prompts = population(memory), len(read[2])
    size = _divisor(pop, CPU_ROWS)
    width = _divisor(prompts, CPU_ROWS // size)
    if (size, width) == (pop, prompts):
        return score(memory, read)

    def grouped(evolved: Any) -> Outcome:
        groups = jax.tree.map(lambda x: x.reshape(pop // size, size, *x.shape[1:]), evolved)

        def answered(begin: Array) -> Outcome:
            some = _some(read, begin + jnp.arange(width))
            return jax.lax.map(lambda group: score(memory._replace(evolved=group), some), groups)

        found = jax.lax.map(answered, jnp.arange(0, prompts, width))
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 2).reshape(pop, prompts), found)

    together = lambda evolved: score(memory._replace(evolved=evolved), read)  # noqa: E731
    return jax.lax.platform_dependent(memory.evolved, cpu=grouped, default=together)


def _divisor(count: int, limit: int) -> int:
    """The largest divisor of a count within a limit."""
    return max(n for n in range(1, count + 1) if count % n == 0 and n <= limit)


def _some(read: Prompts, rows: Array) -> Prompts:
    """Some prompts of a batch."""
    stream, prompt, budget = read
    return take_rows(stream, rows), Batch(*(x[rows] for x in prompt)), budget[rows]


def kept_share(stream: Stream, pop: int) -> Float[Array, "pop prompt"]:
    """Occupied slots over tokens read, mean over layers and heads."""
    held = jnp.mean(jnp.sum(stream.cache.valid, axis=-1), axis=(0, 2))
    return (held / jnp.maximum(stream.seen, 1)).reshape(pop, -1)


def engine_for(memory: Memory, source: PromptSource) -> Engine:
    """The static part of a rollout of this memory on the source's host."""
    return make_engine(source.host.spec, memory.policy, memory.selection, source.mix.length)


def budgets(
    use: UseConfig, prompt: Batch, kept: int, selection: SelectionConfig, samples: Sequence[int] = (0,)
) -> Int[Array, " prompt"]:
    """Tokens that each prompt may keep; `samples` are the prompts' numbers in their tasks, or one for all of them."""
    lengths = np.asarray(prompt.context_length)
    numbers = np.broadcast_to(np.asarray(samples) % len(use.each), lengths.shape)
    tokens = np.stack([resolve_budget(budget, lengths, kept, selection.protected) for budget in use.each])
    return jnp.asarray(tokens[numbers, np.arange(len(lengths))])
