"""How memories answer a batch of prompts: from one record, evicting while they read, or by another engine."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from experiments.objective import FULL, KEEP_ALL, UseConfig, budgets, full_cache
from experiments.prompts import Budget, PromptSource, budget_label
from experiments.summary import WHOLE, entry_name
from experiments.tasks.encoding import Batch
from experiments.trace import HELD, ORIGIN, TRACED, Traced
from hosts.answering import falls_due, settled
from hosts.decoding import Decoding, advance, finish, start_decoding
from hosts.llama import Params
from hosts.rollout import Schedule, prefill, record
from hosts.stream import Engine, Stream, compress, make_engine, tile_rows, unwatched
from hosts.weights import Host
from namm.artefact import Memory
from namm.bundle import Bundle
from namm.cache import CacheShape, slot_bytes
from namm.contract import NO_PARAMETERS, Parameters
from namm.memory import Layout

# What a budget counts: kept tokens, or bytes, where state that a memory carries for a token is paid for with tokens.
Equal = Literal["tokens", "bytes"]
# Memory, tokens a head of every prompt (None: all), prompts, most new tokens -> ids of `Answered`, held of `Places`.
OtherEngine = Callable[[Memory, tuple[int, ...] | None, Batch, Array], tuple[np.ndarray, np.ndarray]]
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

    @property
    def name(self) -> str:
        """The memory and its budget."""
        return entry_name(self.memory.name, self.budget)


class Answered(NamedTuple):
    """An entry on a batch of prompts: generated ids (-1 after the end), what stayed, and the seconds it took."""

    entry: Entry
    tokens: Int[np.ndarray, "prompt step"]
    places: Places
    seconds: float


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


def _whole(stream: Stream) -> tuple[Stream, Places]:
    """The full cache, which nothing watches."""
    return unwatched(stream), _nowhere(jnp.sum(stream.cache.valid, axis=-1))


def _nowhere(held: Int[Array, "layer prompt head"]) -> Places:
    """How many tokens stayed, but not which."""
    nothing = jnp.zeros((*held.shape, 0), jnp.int32)
    return Places(held, nothing, nothing)


@partial(jax.jit, static_argnums=(0, 7, 8))
def _begin(
    engine: Engine, params: Params, memory: Parameters, streams: Sequence[Stream], prompt: Batch, budget: Array,
    limits: Array, schedule: Schedule, steps: int,
) -> Decoding:
    """Answers of every stream, stream-major; each holds the same prompts."""
    layered = jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), *(s[:2] for s in streams))
    rest = jax.tree.map(lambda *xs: jnp.concatenate(xs), *(s[2:] for s in streams))
    question, length, budget, limits = tile_rows((*prompt[2:4], budget, limits), len(streams))
    return start_decoding(
        engine, params, memory, Stream(*layered, *rest), question, length, budget, schedule, steps, limits
    )


@partial(jax.jit, static_argnums=(0, 5))
def _advance(
    engine: Engine, params: Params, memory: Parameters, decoding: Decoding, budget: Array, schedule: Schedule,
    until: Int[Array, ""] | int,
) -> Decoding:
    return advance(engine, params, memory, decoding, budget, schedule, engine.spec.eos_ids, until)


def _answer(
    engine: Engine, params: Params, memory: Parameters, streams: Sequence[Stream], prompt: Batch, budget: Array,
    limits: Array, schedule: Schedule, steps: int,
) -> Int[np.ndarray, "answer step"]:
    """Greedy answers; where no update can fall due, finished rows are let go."""
    decoding = _begin(engine, params, memory, streams, prompt, budget, limits, schedule, steps)

    def run(decoding: Decoding, until: int) -> Decoding:
        return _advance(engine, params, memory, decoding, budget, schedule, until)

    return np.asarray(run(decoding, 0).out) if decoding.past is None else finish(run, decoding)


@dataclass
class Answering:
    """Memories at budgets (by default the one of `use`), ready to answer prompts of a source.

    equal: what a budget counts, see `Equal`. other: answers, streaming, instead of this engine; it does not say
    which tokens stay. ValueError where memories have one name, or in recorded mode with another engine.
    """

    source: PromptSource
    memories: Sequence[Memory]
    use: UseConfig
    batch: int = 8
    budgets: Sequence[Budget] = ()
    equal: Equal = "tokens"
    other: OtherEngine | None = None

    def __post_init__(self) -> None:
        if self.other is not None and self.use.mode != "streaming":
            raise ValueError(f"mode is {self.use.mode!r}; the torch engine evicts while it reads: choose 'streaming'")
        names = [memory.name for memory in self.memories]
        if len(set(names)) != len(names):
            raise ValueError(f"memories are {names}; name each one once")
        self.entries: list[Entry] = []
        for memory in self.memories:
            if memory.policy.name == FULL:
                self.entries.append(self._entry(memory, self.use, WHOLE))
                continue
            for budget in self.budgets or self.use.each:
                self.entries.append(self._entry(memory, replace(self.use, budget=budget), budget_label(budget)))
        self.plain = full_cache(self.source.host.spec, self.source.mix.length)
        self.bytes = token_bytes(self.memories, self.source.host)

    def _entry(self, memory: Memory, use: UseConfig, budget: str) -> Entry:
        spec, length = self.source.host.spec, self.source.mix.length
        if length > spec.max_positions:  # positions in use are those of slots
            length = use.kept(length) + memory.interval
        updates = -(-length // memory.interval) if use.mode == "streaming" and self.traces else 0
        engine = make_engine(spec, memory.policy, memory.selection, length)
        return Entry(memory, replace(engine, policy=Traced(engine.policy, updates)), use, budget)

    @property
    def traces(self) -> bool:
        """Whether answers say which tokens stay: not of another engine, nor of more than TRACED tokens."""
        return self.other is None and self.source.mix.length <= TRACED

    def answer(self, prompt: Batch, limits: Int[Array, " prompt"]) -> Iterator[Answered]:
        """Every entry once. limits: the most tokens to answer each prompt with."""
        if self.other is not None:
            return self._elsewhere(self.other, prompt, limits)
        return self._recorded(prompt, limits) if self.use.mode == "recorded" else self._streaming(prompt, limits)

    def _recorded(self, prompt: Batch, limits: Array) -> Iterator[Answered]:
        """One full-cache pass that every policy watches; each entry then evicts from it."""
        policies = {entry.memory.name: entry.engine.policy for entry in self.entries if entry.budget != WHOLE}
        bundle = Bundle(tuple(policies.values()))
        watching = Engine(self.plain.spec, bundle, KEEP_ALL, self.plain.length)
        stream = jax.block_until_ready(_record(watching, self.source.host.params, prompt, self.use.chunk))
        states = {name: bundle.member_state(stream.state, i) for i, name in enumerate(policies)}
        for kept, entries in self._alike(stream.cache.keys.shape[3]):
            streams, places, seconds = [], [], []
            for entry in entries:
                begin = time.perf_counter()
                if entry.budget == WHOLE:
                    small, stayed = _whole(stream)
                else:
                    own, budget = stream._replace(state=states[entry.memory.name]), self._budgets(entry, prompt, kept)
                    small, stayed = _compress(entry.engine, entry.memory.population, own, budget, kept)
                streams.append(jax.block_until_ready(small))
                places.append(stayed)
                seconds.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            parts = self._decode(streams, prompt, limits).reshape(len(entries), self.batch, -1)
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
            if entry.budget == WHOLE:
                begin = time.perf_counter()
                stream, places = _whole(_record(self.plain, params, prompt, self.use.chunk))
                yield Answered(entry, self._decode([stream], prompt, limits), places, time.perf_counter() - begin)
                continue
            begin, memory, engine = time.perf_counter(), entry.memory, entry.engine
            kept = self._slots(entry, prompt.context.shape[1])
            budget = self._budgets(entry, prompt, kept)
            schedule = Schedule(memory.interval, min(self.use.chunk, memory.interval), kept)
            stream, places = _prefill(engine, params, memory.population, prompt, budget, jax.random.key(0), schedule)
            answering, parameters = engine, memory.population
            if not falls_due(schedule, 0, prompt.question.shape[1], self.source.steps):
                # Nothing watches the answer: one program serves every memory.
                plain = replace(self.plain, length=engine.length)
                answering, parameters, stream = plain, NO_PARAMETERS, unwatched(stream)
            tokens = _answer(
                answering, params, parameters, [stream], prompt, budget, limits, schedule, self.source.steps
            )
            yield Answered(entry, tokens, places, time.perf_counter() - begin)

    def _decode(self, streams: Sequence[Stream], prompt: Batch, limits: Array) -> Int[np.ndarray, "answer step"]:
        """Answers of streams with as many slots, which are judged no more."""
        kept, params = streams[0].cache.keys.shape[3], self.source.host.params
        room, schedule = jnp.full(self.batch, kept), settled(kept)
        return _answer(
            self.plain, params, NO_PARAMETERS, streams, prompt, room, limits, schedule, self.source.steps
        )

    def _elsewhere(self, other: OtherEngine, prompt: Batch, limits: Array) -> Iterator[Answered]:
        """Each memory evicts while another engine reads."""
        for entry in self.entries:
            begin = time.perf_counter()
            kept = self._slots(entry, prompt.context.shape[1])
            budget = None if entry.budget == WHOLE else tuple(self._budgets(entry, prompt, kept).tolist())
            tokens, held = other(entry.memory, budget, prompt, limits)
            yield Answered(entry, tokens, _nowhere(jnp.asarray(held)), time.perf_counter() - begin)

    def _slots(self, entry: Entry, full: int) -> int:
        """Slots for kept tokens; the full cache is given all its `full` slots."""
        if entry.budget == WHOLE:
            return full
        return entry.use.kept(self.source.widths.context, entry.memory.selection.widest)

    def _budgets(self, entry: Entry, prompt: Batch, kept: int) -> Int[Array, " prompt"]:
        """Tokens that each prompt may keep."""
        tokens = budgets(entry.use, prompt, kept, entry.memory.selection)
        cache, state = self.bytes[entry.memory.name]
        if self.equal == "tokens" or entry.use.budget is None:
            return tokens
        return jnp.maximum(tokens * cache // (cache + state), entry.memory.selection.protected)


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
