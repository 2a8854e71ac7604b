"""Memories and policies on the same prompts: per-sample records and a summary with paired intervals."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.stats import bootstrap

from experiments.objective import FULL, KEEP_ALL, UseConfig, budgets, kept_share
from experiments.prompts import PromptSource
from experiments.tasks import Split, metrics
from experiments.tasks.encoding import Batch
from hosts.llama import Params
from hosts.rollout import Schedule, answer_layout, generate, prefill, record, settled
from hosts.stream import Engine, Stream, compress, make_engine, unwatched
from namm.artefact import Memory
from namm.bundle import Bundle
from namm.cache import CacheShape, slot_bytes
from namm.contract import NO_PARAMETERS, Parameters
from namm.memory import Layout
from namm.policies import load_policy


@dataclass(frozen=True)
class Verdict:
    """One memory on one prompt. kept: share of the context's tokens that stayed, mean over layers and heads."""

    memory: str
    mode: str
    task: str
    split: str
    index: int
    score: float
    kept: float
    tokens: int
    prediction: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """One row of the table. Intervals are 95% percentile bootstraps; `difference` is to the reference memory."""

    memory: str
    mode: str
    prompts: int
    score: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    kept: float
    cache_bytes: int
    state_bytes: int
    seconds: float


@partial(jax.jit, static_argnums=(0, 3))
def _record(engine: Engine, params: Params, prompt: Batch, chunk: int) -> Stream:
    return record(engine, params, prompt.context, prompt.context_length, chunk, jax.random.key(0))


@partial(jax.jit, static_argnums=(0, 4))
def _compress(
    engine: Engine, memory: Parameters, stream: Stream, budget: Array, kept: int
) -> tuple[Stream, Float[Array, " prompt"]]:
    small = compress(engine, memory, stream, budget, Layout(kept, 0))
    return unwatched(small), kept_share(small, 1)[0]


@partial(jax.jit, static_argnums=(0, 6))
def _prefill(
    engine: Engine, params: Params, memory: Parameters, prompt: Batch, budget: Array, key: Array, schedule: Schedule
) -> tuple[Stream, Float[Array, " prompt"]]:
    stream = prefill(engine, params, memory, prompt.context, prompt.context_length, budget, schedule, key)
    return stream, kept_share(stream, 1)[0]


@partial(jax.jit, static_argnums=(0, 6, 7))
def _answer(
    engine: Engine, params: Params, memory: Parameters, stream: Stream, prompt: Batch, budget: Array,
    schedule: Schedule, steps: int,
) -> Int[Array, "prompt step"]:
    return generate(
        engine, params, memory, stream, prompt.question, prompt.question_length, budget, schedule, steps,
        engine.spec.eos_ids,
    )


@dataclass
class Evaluator:
    """Runs memories over prompts of a source; `seconds` collects each memory's own time (shared reading apart)."""

    source: PromptSource
    memories: Sequence[Memory]
    use: UseConfig
    batch: int = 8

    def __post_init__(self) -> None:
        names = [memory.name for memory in self.memories]
        if len(set(names)) != len(names):
            raise ValueError(f"memories are {names}; name each one once")
        spec = self.source.host.spec
        self.engines = [make_engine(spec, m.policy, m.selection, self.source.mix.length) for m in self.memories]
        self.plain = Engine(spec, load_policy(FULL), KEEP_ALL, self.source.mix.length)
        self.seconds = dict.fromkeys(names, 0.0)

    def run(self, split: Split, indices: Sequence[int], progress: Callable[[int], None] | None = None) -> list[Verdict]:
        """Every memory on every prompt, batch by batch."""
        answers = self._recorded if self.use.mode == "recorded" else self._streaming
        verdicts: list[Verdict] = []
        for begin in range(0, len(indices), self.batch):
            part = list(indices[begin : begin + self.batch])
            filled = part + part[-1:] * (self.batch - len(part))  # one batch shape, one compilation
            for memory, tokens, kept in answers(self.source.batch(split, filled)):
                rows = zip(part, np.asarray(tokens), np.asarray(kept).tolist(), strict=False)
                verdicts += [self._verdict(memory, split, index, ids, share) for index, ids, share in rows]
            if progress:
                progress(len(part))
        return verdicts

    def _recorded(self, prompt: Batch) -> Iterator[tuple[Memory, Array, Array]]:
        """One full-cache pass that every policy watches; each then evicts from it."""
        params = self.source.host.params
        bundle = Bundle(tuple(engine.policy for engine in self.engines))
        watching = Engine(self.plain.spec, bundle, KEEP_ALL, self.plain.length)
        stream = jax.block_until_ready(_record(watching, params, prompt, self.use.chunk))
        for i, (memory, engine) in enumerate(zip(self.memories, self.engines, strict=True)):
            begin = time.perf_counter()
            kept, budget = self._limits(memory, prompt, full=stream.cache.keys.shape[3])
            own = stream._replace(state=bundle.member_state(stream.state, i))
            small, share = _compress(engine, memory.population, own, budget, kept)
            settings = (budget, settled(kept), self.source.steps)
            tokens = jax.block_until_ready(_answer(self.plain, params, NO_PARAMETERS, small, prompt, *settings))
            self.seconds[memory.name] += time.perf_counter() - begin
            yield memory, tokens, share

    def _streaming(self, prompt: Batch) -> Iterator[tuple[Memory, Array, Array]]:
        """Each memory evicts while it reads; updates go on while it answers."""
        params = self.source.host.params
        for memory, engine in zip(self.memories, self.engines, strict=True):
            begin = time.perf_counter()
            kept, budget = self._limits(memory, prompt, full=prompt.context.shape[1])
            schedule = Schedule(memory.interval, min(self.use.chunk, memory.interval), kept)
            stream, share = _prefill(
                engine, params, memory.population, prompt, budget, jax.random.key(0), schedule
            )
            answering, parameters = engine, memory.population
            _, updates = answer_layout(schedule, 0, prompt.question.shape[1], self.source.steps)
            if not updates:  # nothing watches the answer: one program serves every memory
                answering, parameters, stream = self.plain, NO_PARAMETERS, unwatched(stream)
            tokens = _answer(answering, params, parameters, stream, prompt, budget, schedule, self.source.steps)
            tokens = jax.block_until_ready(tokens)
            self.seconds[memory.name] += time.perf_counter() - begin
            yield memory, tokens, share

    def _limits(self, memory: Memory, prompt: Batch, full: int) -> tuple[int, Array]:
        """Slots for kept tokens and the budget of every prompt; the full cache is given all its `full` slots."""
        if memory.policy.name == FULL:
            return full, jnp.full(len(prompt.context), full)
        kept = self.use.kept(prompt.context.shape[1])
        return kept, budgets(self.use, prompt, kept, memory.selection)

    def _verdict(self, memory: Memory, split: Split, index: int, ids: np.ndarray, share: float) -> Verdict:
        encoded = self.source.prompt(split, index)
        text = str(self.source.host.tokenizer.decode(ids[ids >= 0].tolist(), skip_special_tokens=True))
        score = metrics.score(text, encoded.sample)
        context = len(encoded.context)
        return Verdict(
            memory.name, self.use.mode, encoded.sample.task, split, index, float(score), float(share), context, text,
            encoded.sample.answers,
        )

    def summary(self, verdicts: Sequence[Verdict], reference: str) -> list[Summary]:
        """One row a memory, in the given order; differences are paired by prompt, `reference` minus the memory."""
        rows = {m.name: [v for v in verdicts if v.memory == m.name] for m in self.memories}
        base = np.array([v.score for v in rows[reference]])
        return [self._summarise(memory, rows[memory.name], base) for memory in self.memories]

    def _summarise(self, memory: Memory, rows: list[Verdict], base: np.ndarray) -> Summary:
        scores = np.array([v.score for v in rows])
        tokens = float(np.mean([v.kept * v.tokens for v in rows]))
        spec, dtype = self.source.host.spec, self.source.host.params["embedding"].dtype
        shape = CacheShape(spec.kv_heads, spec.group, 1, spec.head_dim)
        state = jax.eval_shape(lambda: memory.policy.init(shape, jax.random.key(0)) if not _unbound(memory) else None)
        carried = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.slots)) if state else 0
        return Summary(
            memory.name,
            self.use.mode,
            len(rows),
            float(scores.mean()),
            *interval(scores),
            float((base - scores).mean()),
            *interval(base - scores),
            float(np.mean([v.kept for v in rows])),
            round(tokens * slot_bytes(shape, dtype) * spec.layers),
            round(tokens * carried * spec.layers),
            self.seconds[memory.name],
        )


def _unbound(memory: Memory) -> bool:
    return "rope" in memory.policy.needs  # keeps nothing per slot, and needs a host to be initialised


def interval(values: np.ndarray) -> tuple[float, float]:
    """95% percentile bootstrap of the mean; the mean itself where the values are all alike."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    found: Any = bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
