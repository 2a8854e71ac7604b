"""Memories and policies on the same prompts, batch by batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from experiments.objective import FULL, KEEP_ALL, UseConfig, budgets
from experiments.prompts import Budget, PromptSource, budget_label
from experiments.summary import WHOLE, Summary, Verdict, summarise
from experiments.tasks import Split, metrics
from experiments.tasks.encoding import Batch, Encoded
from experiments.tasks.facts import facts, places
from experiments.trace import HELD, ORIGIN, Trace, Traced, kept_bits, pack, pack_counts, token_texts
from hosts.llama import Params
from hosts.rollout import Schedule, answer_layout, generate, prefill, record, settled
from hosts.stream import Engine, Stream, compress, make_engine, tile_rows, unwatched
from hosts.weights import Host
from namm.artefact import Memory
from namm.bundle import Bundle
from namm.cache import CacheShape, slot_bytes
from namm.contract import NO_PARAMETERS, Parameters
from namm.memory import Layout
from namm.policies import load_policy

# What a budget counts: kept tokens, or bytes, where state that a memory carries for a token is paid for with tokens.
Equal = Literal["tokens", "bytes"]
ROWS = 32  # answers decoded at once where the memory has no say any more: the weights are read once for all of them


class Places(NamedTuple):
    """What stayed of contexts: tokens per layer and head, which, and how many after earlier updates (see `Traced`)."""

    held: Int[Array, "layer prompt head"]
    origin: Int[Array, "layer prompt head slot"]
    before: Int[Array, "layer prompt head update"]


class Entry(NamedTuple):
    """A memory at one of the budgets."""

    memory: Memory
    engine: Engine
    use: UseConfig
    budget: str


class Answered(NamedTuple):
    """An entry on a batch of prompts: generated ids (-1 after the end), what stayed, and the seconds it took."""

    entry: Entry
    tokens: Int[Array, "prompt step"]
    places: Places
    seconds: float


class Finished(NamedTuple):
    """Prompts that every entry has answered."""

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
    return Places(jnp.sum(stream.cache.valid, axis=-1), stream.state.slots[ORIGIN], stream.state.running[HELD])


@partial(jax.jit, static_argnums=(0, 7, 8))
def _answer(
    engine: Engine, params: Params, memory: Parameters, streams: Sequence[Stream], prompt: Batch, budget: Array,
    limits: Array, schedule: Schedule, steps: int,
) -> Int[Array, "answer step"]:
    """Answers of every stream, stream-major; each holds the same prompts."""
    layered = jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *(s[:2] for s in streams))
    rest = jax.tree.map(lambda *xs: jnp.concatenate(xs), *(s[2:] for s in streams))
    question, length, budget, limits = tile_rows((*prompt[2:4], budget, limits), len(streams))
    return generate(
        engine, params, memory, Stream(*layered, *rest), question, length, budget, limits, schedule, steps,
        engine.spec.eos_ids,
    )


@dataclass
class Evaluator:
    """Runs memories at budgets over prompts of a source.

    equal: what a budget counts, see `Equal`; ValueError where memories have one name.
    """

    source: PromptSource
    memories: Sequence[Memory]
    use: UseConfig
    batch: int = 8
    budgets: Sequence[Budget] = ()
    equal: Equal = "tokens"

    def __post_init__(self) -> None:
        names = [memory.name for memory in self.memories]
        if len(set(names)) != len(names):
            raise ValueError(f"memories are {names}; name each one once")
        spec, length = self.source.host.spec, self.source.mix.length
        self.entries: list[Entry] = []
        for memory in self.memories:
            engine = make_engine(spec, memory.policy, memory.selection, length)
            history = -(-length // memory.interval) if self.use.mode == "streaming" else 0
            engine = replace(engine, policy=Traced(engine.policy, history))
            if memory.policy.name == FULL:
                self.entries.append(Entry(memory, engine, self.use, WHOLE))
                continue
            for budget in self.budgets or (self.use.budget,):
                self.entries.append(Entry(memory, engine, replace(self.use, budget=budget), budget_label(budget)))
        self.plain = Engine(spec, load_policy(FULL), KEEP_ALL, length)
        self.bytes = token_bytes(self.memories, self.source.host)

    def run(self, split: Split, prompts: int, progress: Callable[[int], None], trace: int) -> Finished:
        """Every entry on the first prompts of a split (see `batches`)."""
        whole = Finished([], [])
        for finished in self.batches(split, range(prompts), trace):
            whole.verdicts.extend(finished.verdicts)
            whole.traces.extend(finished.traces)
            progress(len(finished.verdicts) // len(self.entries))
        return whole

    def batches(self, split: Split, indices: range, trace: int) -> Iterator[Finished]:
        """Batch by batch: a verdict an entry and prompt, entry-major, and traces of the prompts below `trace`."""
        answers = self._recorded if self.use.mode == "recorded" else self._streaming
        for begin in range(0, len(indices), self.batch):
            part = list(indices[begin : begin + self.batch])
            filled = part + part[-1:] * (self.batch - len(part))  # one batch shape, one compilation
            prompts = [self.source.prompt(split, index) for index in filled]
            limits = jnp.array([prompt.sample.max_new_tokens for prompt in prompts])
            kept: list[dict[str, str]] = [{} for index in part if index < trace]
            over: list[dict[str, str]] = [{} for _ in kept]
            verdicts: list[Verdict] = []
            for answered in answers(self.source.batch(split, filled), limits):
                verdicts += (found := self._verdicts(split, part, prompts, answered))
                if kept and answered.entry.budget != WHOLE:
                    origin = np.asarray(answered.places.origin)
                    for row, bits in enumerate(kept):
                        tokens, name = len(prompts[row].context), found[row].entry
                        bits[name] = pack(kept_bits(origin[:, row], tokens))
                        if self.use.mode == "streaming":
                            over[row][name] = _over_time(answered, row, tokens)
            traces = [self._trace(*one) for one in zip(part, prompts, kept, over, strict=False)]
            yield Finished(verdicts, traces)

    def _recorded(self, prompt: Batch, limits: Array) -> Iterator[Answered]:
        """One full-cache pass that every policy watches; each entry then evicts from it."""
        params = self.source.host.params
        policies = {entry.memory.name: entry.engine.policy for entry in self.entries}
        bundle = Bundle(tuple(policies.values()))
        watching = Engine(self.plain.spec, bundle, KEEP_ALL, self.plain.length)
        stream = jax.block_until_ready(_record(watching, params, prompt, self.use.chunk))
        member = {name: i for i, name in enumerate(policies)}
        for kept, entries in self._alike(stream.cache.keys.shape[3]):
            streams, places, seconds = [], [], []
            for entry in entries:
                begin = time.perf_counter()
                own = stream._replace(state=bundle.member_state(stream.state, member[entry.memory.name]))
                budget = self._budgets(entry, prompt, kept)
                small, stayed = jax.block_until_ready(
                    _compress(entry.engine, entry.memory.population, own, budget, kept)
                )
                streams.append(small)
                places.append(stayed)
                seconds.append(time.perf_counter() - begin)
            begin, room = time.perf_counter(), jnp.full(self.batch, kept)
            tokens = _answer(
                self.plain, params, NO_PARAMETERS, streams, prompt, room, limits, settled(kept), self.source.steps
            )
            parts = jax.block_until_ready(tokens).reshape(len(entries), self.batch, -1)
            each = (time.perf_counter() - begin) / len(entries)
            for entry, part, stayed, own_seconds in zip(entries, parts, places, seconds, strict=True):
                yield Answered(entry, part, stayed, own_seconds + each)

    def _alike(self, full: int) -> Iterator[tuple[int, list[Entry]]]:
        """Entries whose caches have as many slots, at most ROWS answers at once."""
        groups: dict[int, list[Entry]] = {}
        for entry in self.entries:
            groups.setdefault(self._slots(entry, full), []).append(entry)
        size = max(1, ROWS // self.batch)
        for kept, entries in groups.items():
            for begin in range(0, len(entries), size):
                yield kept, entries[begin : begin + size]

    def _streaming(self, prompt: Batch, limits: Array) -> Iterator[Answered]:
        """Each memory evicts while it reads; updates go on while it answers."""
        params = self.source.host.params
        for entry in self.entries:
            begin, memory, engine = time.perf_counter(), entry.memory, entry.engine
            kept = self._slots(entry, prompt.context.shape[1])
            budget = self._budgets(entry, prompt, kept)
            schedule = Schedule(memory.interval, min(self.use.chunk, memory.interval), kept)
            stream, places = _prefill(engine, params, memory.population, prompt, budget, jax.random.key(0), schedule)
            answering, parameters = engine, memory.population
            _, updates = answer_layout(schedule, 0, prompt.question.shape[1], self.source.steps)
            if not updates:  # nothing watches the answer: one program serves every memory
                answering, parameters, stream = self.plain, NO_PARAMETERS, unwatched(stream)
            tokens = _answer(
                answering, params, parameters, [stream], prompt, budget, limits, schedule, self.source.steps
            )
            yield Answered(entry, jax.block_until_ready(tokens), places, time.perf_counter() - begin)

    def _slots(self, entry: Entry, full: int) -> int:
        """Slots for kept tokens; the full cache is given all its `full` slots."""
        return full if entry.budget == WHOLE else entry.use.kept(self.source.widths.context)

    def _budgets(self, entry: Entry, prompt: Batch, kept: int) -> Int[Array, " prompt"]:
        """Tokens that each prompt may keep."""
        if entry.budget == WHOLE:
            return jnp.full(len(prompt.context), kept)
        tokens = budgets(entry.use, prompt, kept, entry.memory.selection)
        cache, state = self.bytes[entry.memory.name]
        if self.equal == "tokens" or entry.use.budget is None:
            return tokens
        return jnp.maximum(tokens * cache // (cache + state), entry.memory.selection.protected)

    def _verdicts(
        self, split: Split, part: list[int], prompts: list[Encoded], answered: Answered
    ) -> list[Verdict]:
        tokens, held = np.asarray(answered.tokens), np.asarray(answered.places.held)
        verdicts = []
        for row, (index, prompt) in enumerate(zip(part, prompts, strict=False)):
            ids, sample = tokens[row], prompt.sample
            text = str(self.source.host.tokenizer.decode(ids[ids >= 0].tolist(), skip_special_tokens=True))
            verdict = Verdict(
                memory=answered.entry.memory.name,
                budget=answered.entry.budget,
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
            verdicts.append(verdict)
        return verdicts

    def _trace(self, index: int, prompt: Encoded, kept: dict[str, str], over: dict[str, str]) -> Trace:
        host, sample = self.source.host, prompt.sample
        return Trace(
            task=sample.task,
            mode=self.use.mode,
            length=self.source.mix.length,
            index=index,
            tokens=token_texts(host.tokenizer, prompt.context.tolist()),
            question=str(host.tokenizer.decode(prompt.question.tolist())),
            answers=sample.answers,
            facts=facts(sample),
            shape=(host.spec.layers, host.spec.kv_heads),
            kept=kept,
            over=over,
        )

    def summary(self, verdicts: Sequence[Verdict], reference: str) -> list[Summary]:
        """One row an entry, in the given order; differences are paired by prompt (see `Summary`)."""
        return summarise(verdicts, self.bytes, reference)


def _over_time(answered: Answered, row: int, tokens: int) -> str:
    """Tokens read and held after every update of a context (see `pack_counts`)."""
    interval = answered.entry.memory.interval
    read = np.minimum(interval * np.arange(1, -(-tokens // interval) + 1), tokens)
    before, last = (np.asarray(part[:, row]) for part in (answered.places.before, answered.places.held))
    return pack_counts(read, np.concatenate([before[..., : len(read) - 1], last[..., None]], axis=2))


def answer_depth(prompt: Encoded) -> float | None:
    """Where in the context its only answer begins (0 to 1); None for several answers, a label or an absent one."""
    context, answers = prompt.sample.context, facts(prompt.sample)
    place = next(places(context, answers[0]), None) if len(answers) == 1 else None
    return None if place is None else place / len(context)


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
