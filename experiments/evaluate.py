"""Memories and policies on the same prompts, batch by batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from experiments.objective import FULL, KEEP_ALL, UseConfig, budgets
from experiments.prompts import PromptSource
from experiments.summary import Summary, Verdict, summarise
from experiments.tasks import Split, metrics
from experiments.tasks.encoding import Batch, Encoded
from experiments.trace import ORIGIN, Trace, Traced, kept_bits, pack, token_texts
from hosts.llama import Params
from hosts.rollout import Schedule, answer_layout, generate, prefill, record, settled
from hosts.stream import Engine, Stream, compress, make_engine, unwatched
from hosts.weights import Host
from namm.artefact import Memory
from namm.bundle import Bundle
from namm.cache import CacheShape, slot_bytes
from namm.contract import NO_PARAMETERS, Parameters
from namm.memory import Layout
from namm.policies import load_policy


class Places(NamedTuple):
    """What stayed of contexts: tokens per layer and head, and which (see `Traced`)."""

    held: Int[Array, "layer prompt head"]
    origin: Int[Array, "layer prompt head slot"]


class Answered(NamedTuple):
    """One memory on a batch of prompts: generated ids (-1 after the end), what stayed, and the seconds it took."""

    memory: Memory
    tokens: Int[Array, "prompt step"]
    places: Places
    seconds: float


class Finished(NamedTuple):
    """Prompts that every memory has answered."""

    verdicts: list[Verdict]
    traces: list[Trace]


@partial(jax.jit, static_argnums=(0, 3))
def _record(engine: Engine, params: Params, prompt: Batch, chunk: int) -> Stream:
    return record(engine, params, prompt.context, prompt.context_length, chunk, jax.random.key(0))


@partial(jax.jit, static_argnums=(0, 4))
def _compress(
    engine: Engine, memory: Parameters, stream: Stream, budget: Array, kept: int
) -> tuple[Stream, Places]:
    small = compress(engine, memory, stream, budget, Layout(kept, 0))
    return unwatched(small), _places(small)


@partial(jax.jit, static_argnums=(0, 6))
def _prefill(
    engine: Engine, params: Params, memory: Parameters, prompt: Batch, budget: Array, key: Array, schedule: Schedule
) -> tuple[Stream, Places]:
    stream = prefill(engine, params, memory, prompt.context, prompt.context_length, budget, schedule, key)
    return stream, _places(stream)


def _places(stream: Stream) -> Places:
    return Places(jnp.sum(stream.cache.valid, axis=-1), stream.state.slots[ORIGIN])


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
    """Runs memories over prompts of a source."""

    source: PromptSource
    memories: Sequence[Memory]
    use: UseConfig
    batch: int = 8

    def __post_init__(self) -> None:
        names = [memory.name for memory in self.memories]
        if len(set(names)) != len(names):
            raise ValueError(f"memories are {names}; name each one once")
        spec, length = self.source.host.spec, self.source.mix.length
        bound = [make_engine(spec, m.policy, m.selection, length) for m in self.memories]
        self.engines = [replace(engine, policy=Traced(engine.policy)) for engine in bound]
        self.plain = Engine(spec, load_policy(FULL), KEEP_ALL, length)

    def run(self, split: Split, prompts: int, progress: Callable[[int], None], trace: int) -> Finished:
        """Every memory on the first prompts of a split (see `batches`)."""
        whole = Finished([], [])
        for finished in self.batches(split, range(prompts), trace):
            whole.verdicts.extend(finished.verdicts)
            whole.traces.extend(finished.traces)
            progress(len(finished.verdicts) // len(self.memories))
        return whole

    def batches(self, split: Split, indices: range, trace: int) -> Iterator[Finished]:
        """Batch by batch: a verdict a memory and prompt, memory-major, and traces of the prompts below `trace`."""
        answers = self._recorded if self.use.mode == "recorded" else self._streaming
        for begin in range(0, len(indices), self.batch):
            part = list(indices[begin : begin + self.batch])
            filled = part + part[-1:] * (self.batch - len(part))  # one batch shape, one compilation
            prompts = [self.source.prompt(split, index) for index in part]
            kept: list[dict[str, str]] = [{} for index in part if index < trace]
            verdicts: list[Verdict] = []
            for answered in answers(self.source.batch(split, filled)):
                verdicts += self._verdicts(split, part, prompts, answered)
                if kept and answered.memory.policy.name != FULL:
                    origin = np.asarray(answered.places.origin)
                    for row, found in enumerate(kept):
                        found[answered.memory.name] = pack(kept_bits(origin[:, row], len(prompts[row].context)))
            traces = [self._trace(*one) for one in zip(part, prompts, kept, strict=False)]
            yield Finished(verdicts, traces)

    def _recorded(self, prompt: Batch) -> Iterator[Answered]:
        """One full-cache pass that every policy watches; each then evicts from it."""
        params = self.source.host.params
        bundle = Bundle(tuple(engine.policy for engine in self.engines))
        watching = Engine(self.plain.spec, bundle, KEEP_ALL, self.plain.length)
        stream = jax.block_until_ready(_record(watching, params, prompt, self.use.chunk))
        for i, (memory, engine) in enumerate(zip(self.memories, self.engines, strict=True)):
            begin = time.perf_counter()
            kept, budget = self._limits(memory, prompt, full=stream.cache.keys.shape[3])
            own = stream._replace(state=bundle.member_state(stream.state, i))
            small, places = _compress(engine, memory.population, own, budget, kept)
            settings = (budget, settled(kept), self.source.steps)
            tokens = jax.block_until_ready(_answer(self.plain, params, NO_PARAMETERS, small, prompt, *settings))
            yield Answered(memory, tokens, places, time.perf_counter() - begin)

    def _streaming(self, prompt: Batch) -> Iterator[Answered]:
        """Each memory evicts while it reads; updates go on while it answers."""
        params = self.source.host.params
        for memory, engine in zip(self.memories, self.engines, strict=True):
            begin = time.perf_counter()
            kept, budget = self._limits(memory, prompt, full=prompt.context.shape[1])
            schedule = Schedule(memory.interval, min(self.use.chunk, memory.interval), kept)
            stream, places = _prefill(engine, params, memory.population, prompt, budget, jax.random.key(0), schedule)
            answering, parameters = engine, memory.population
            _, updates = answer_layout(schedule, 0, prompt.question.shape[1], self.source.steps)
            if not updates:  # nothing watches the answer: one program serves every memory
                answering, parameters, stream = self.plain, NO_PARAMETERS, unwatched(stream)
            tokens = _answer(answering, params, parameters, stream, prompt, budget, schedule, self.source.steps)
            tokens = jax.block_until_ready(tokens)
            yield Answered(memory, tokens, places, time.perf_counter() - begin)

    def _limits(self, memory: Memory, prompt: Batch, full: int) -> tuple[int, Array]:
        """Slots for kept tokens and the budget of every prompt; the full cache is given all its `full` slots."""
        if memory.policy.name == FULL:
            return full, jnp.full(len(prompt.context), full)
        kept = self.use.kept(prompt.context.shape[1])
        return kept, budgets(self.use, prompt, kept, memory.selection)

    def _verdicts(
        self, split: Split, part: list[int], prompts: list[Encoded], answered: Answered
    ) -> Iterator[Verdict]:
        tokens, held = np.asarray(answered.tokens), np.asarray(answered.places.held)
        for row, (index, prompt) in enumerate(zip(part, prompts, strict=True)):
            ids, sample = tokens[row], prompt.sample
            text = str(self.source.host.tokenizer.decode(ids[ids >= 0].tolist(), skip_special_tokens=True))
            yield Verdict(
                memory=answered.memory.name,
                mode=self.use.mode,
                task=sample.task,
                split=split,
                length=self.source.mix.length,
                index=index,
                question="hidden" if sample.question.strip() else "shown",
                depth=answer_depth(prompt),
                score=float(metrics.score(text, sample)),
                kept=float(held[:, row].mean() / len(prompt.context)),
                tokens=len(prompt.context),
                seconds=answered.seconds / len(part),
                prediction=text,
                answers=sample.answers,
                held=tuple(map(tuple, held[:, row].tolist())),
            )

    def _trace(self, index: int, prompt: Encoded, kept: dict[str, str]) -> Trace:
        host, sample = self.source.host, prompt.sample
        return Trace(
            task=sample.task,
            mode=self.use.mode,
            length=self.source.mix.length,
            index=index,
            tokens=token_texts(host.tokenizer, prompt.context.tolist()),
            question=str(host.tokenizer.decode(prompt.question.tolist())),
            answers=sample.answers,
            shape=(host.spec.layers, host.spec.kv_heads),
            kept=kept,
        )

    def summary(self, verdicts: Sequence[Verdict], reference: str) -> list[Summary]:
        """One row a memory, in the given order; differences are paired by prompt, `reference` minus the memory."""
        return summarise(verdicts, token_bytes(self.memories, self.source.host), reference)


def answer_depth(prompt: Encoded) -> float | None:
    """Where in the context its only answer begins (0 to 1); None for several answers, a letter or an absent one."""
    context, answers = prompt.sample.context, prompt.sample.answers
    place = context.find(answers[0]) if len(answers) == 1 and prompt.sample.metric != "choice" else -1
    return place / len(context) if place >= 0 else None


def token_bytes(memories: Sequence[Memory], host: Host) -> dict[str, tuple[int, int]]:
    """Per memory, bytes of keys and values and of carried state that a kept token takes in all layers."""
    spec, dtype = host.spec, host.params["embedding"].dtype
    shape = CacheShape(spec.kv_heads, spec.group, 1, spec.head_dim)
    cache = slot_bytes(shape, dtype) * spec.layers
    return {memory.name: (cache, _carried(memory, shape) * spec.layers) for memory in memories}


def _carried(memory: Memory, shape: CacheShape) -> int:
    if "rope" in memory.policy.needs:  # keeps nothing per slot, and needs a host to be initialised
        return 0
    state = jax.eval_shape(lambda: memory.policy.init(shape, jax.random.key(0)))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.slots))
