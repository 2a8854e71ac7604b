"""Prompts read once with the full cache and kept: the last used in memory, more of them on disk."""

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.objective import full_answer, full_cache, summarise
from experiments.prompts import PromptSource, Widths, fit
from experiments.record_disk import RecordDisk, describe
from experiments.tasks import Split
from experiments.tasks.encoding import Batch
from hosts.answering import settled
from hosts.decoding import generate
from hosts.llama import Params
from hosts.rollout import record
from hosts.smollm2 import cache_folder
from hosts.stream import Engine, Stream, start, unwatched
from namm.contract import NO_PARAMETERS


class Record(NamedTuple):
    """One prompt read with the full cache (leaves without a batch axis), and how the full cache answers it.

    stream: None where a pool keeps the answers alone.
    """

    stream: Stream | None
    prompt: Batch
    exact: np.ndarray
    grade: np.ndarray


@partial(jax.jit, static_argnums=(0, 3, 5))
def record_batch(
    engine: Engine, params: Params, prompt: Batch, chunk: int, key: Array, unanswered: bool
) -> tuple[Stream, Batch, Array, Array]:
    """Full-cache pass over contexts, the prompts, and how likely the full cache finds their targets.

    unanswered: prompts without a target are answered first.
    """
    stream = record(engine, params, prompt.context, prompt.context_length, chunk, key)
    prompt = self_answered(engine, params, stream, prompt) if unanswered else prompt
    answers = full_answer(engine, params, stream, prompt, stream.cache.keys.shape[3])
    exact, grade = summarise(answers, 1)
    return stream, prompt, exact[0], grade[0]


def self_answered(engine: Engine, params: Params, stream: Stream, prompt: Batch) -> Batch:
    """The prompts, with the full cache's greedy answer, its end token included, where there is no target."""
    question, length, target, target_length = prompt[2:]
    steps, room = target.shape[1], jnp.full(len(target), stream.cache.keys.shape[3], jnp.int32)
    limits = jnp.where(target_length == 0, steps, 0)
    asked = unwatched(stream), question, length, room, settled(stream.cache.keys.shape[3])
    host = full_cache(engine.spec, engine.length)
    found = generate(host, params, NO_PARAMETERS, *asked, steps, engine.spec.eos_ids, limits)
    answered = jnp.minimum(jnp.sum(found >= 0, axis=1, dtype=jnp.int32) + 1, steps)
    found = jnp.where(found < 0, next(iter(engine.spec.eos_ids), 0), found)
    return prompt._replace(
        target=jnp.where(limits[:, None] > 0, found, target),
        target_length=jnp.where(limits > 0, answered, target_length),
    )


@dataclass
class RecordPool:
    """The records last used, bounded: prompts are drawn from them, and fresh ones keep arriving.

    gib: of further records in the cache folder, for the runs that come after; 0 for none. streams: keep what was read,
    which takes 46 KB a token on SmolLM2 and more; streaming scoring needs the full cache's answers alone.
    """

    engine: Engine
    params: Params
    source: PromptSource
    chunk: int
    size: int
    batch: int = 8
    gib: float = 0.0
    streams: bool = True
    records: "OrderedDict[tuple[Split, int], Record]" = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.disk = None
        if self.gib:
            settings = (self.engine.spec, self.engine.policy, self.engine.length, self.chunk, self.batch)
            told = describe(*settings, params=self.params)
            self.disk = RecordDisk(cache_folder() / "records", int(self.gib * 2**30), told)

    def get(self, split: Split, indices: list[int]) -> list[Record]:
        """Records of these prompts, made where missing; beyond `size` those longest unused are dropped."""
        missing = [index for index in indices if (split, index) not in self.records]
        if self.disk is not None:
            missing = [index for index in missing if not self._found(self.disk, split, index)]
        for begin in range(0, len(missing), self.batch):
            part = missing[begin : begin + self.batch]
            filled = part + part[-1:] * (self.batch - len(part))  # one batch shape, one compilation
            made = self._record(split, filled)
            for index, one in zip(part, made, strict=False):
                self._keep(split, index, one)
                if self.disk is not None:
                    self.disk.put(self._prompt(split, index), one)
        for index in indices:
            self.records.move_to_end((split, index))
        found = [self.records[split, index] for index in indices]
        while len(self.records) > self.size:
            self.records.popitem(last=False)
        return found

    @cached_property
    def _empty(self) -> Stream:
        """A stream without arrays, for its structure."""
        return jax.eval_shape(partial(start, self.engine, self.params, 1, 1), jax.random.key(0))

    def _found(self, disk: RecordDisk, split: Split, index: int) -> bool:
        """Take a record from the disk, if it is there."""
        prompt = self._prompt(split, index)
        record = disk.get(prompt, jax.tree.structure(Record(self._empty, prompt, np.zeros(()), np.zeros(()))))
        if record is not None:
            self._keep(split, index, record)
        return record is not None

    def _prompt(self, split: Split, index: int) -> Batch:
        """As the source has it, without the host's own answers."""
        return Batch(*(x[0] for x in self.source.batch(split, [index])))

    def _keep(self, split: Split, index: int, record: Record) -> None:
        self.records[split, index] = record if self.streams else record._replace(stream=None)

    def _record(self, split: Split, indices: list[int]) -> list[Record]:
        prompt = self.source.batch(split, indices)
        unanswered = bool((np.asarray(prompt.target_length) == 0).any())
        given = self.engine, self.params, prompt, self.chunk, jax.random.key(0), unanswered
        stream, prompt, exact, grade = record_batch(*given)
        wanted = self.streams or self.disk is not None  # else it stays where it was made, and is let go
        host = jax.tree.map(np.asarray, stream) if wanted else None
        rows = range(len(indices))
        streams = [None for _ in rows] if host is None else [_row(host, i) for i in rows]
        prompts = [Batch(*(np.asarray(x)[i] for x in prompt)) for i in rows]
        return list(map(Record, streams, prompts, np.asarray(exact), np.asarray(grade)))


def _row(stream: Stream, i: int) -> Stream:
    layered = jax.tree.map(lambda x: x[:, i], stream[:2])
    return Stream(*layered, *(x[i] for x in stream[2:]))


def stack(records: list[Record]) -> tuple[Stream, Batch]:
    """Records side by side as one batch."""
    streams = [cast(Stream, one.stream) for one in records]
    layered = jax.tree.map(lambda *xs: np.stack(xs, axis=1), *(s[:2] for s in streams))
    rest = (np.stack(xs) for xs in zip(*(s[2:] for s in streams), strict=True))
    return Stream(*layered, *rest), stack_prompts(records)


def stack_prompts(records: list[Record]) -> Batch:
    """Their prompts alone."""
    widths = Widths(*(max(getattr(one.prompt, part).shape[-1] for one in records) for part in Batch._fields[::2]))
    prompt: Any = (np.stack(x) for x in zip(*(fit(one.prompt, widths) for one in records), strict=True))
    return Batch(*prompt)


def spectrum_statistics(records: list[Record]) -> dict[str, Array]:
    """Frozen normalisation: mean and variance per frequency over layers, heads, tokens and prompts, nothing evicted."""
    streams = [cast(Stream, one.stream) for one in records]
    rows = [stream.state.slots["average"][stream.cache.valid] for stream in streams]
    values = np.concatenate(rows).astype(np.float64)
    return {"mean": jnp.asarray(values.mean(0), jnp.float32), "variance": jnp.asarray(values.var(0), jnp.float32)}
