"""A frozen host that reads without end under one memory: fixed shapes, so nothing grows and nothing is recompiled."""

import sys
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

from hosts.llama import Params, logits
from hosts.spec import HostSpec
from hosts.stream import Engine, Stream, compress, make_engine, read, signals, start
from hosts.weights import Host
from namm.artefact import Memory
from namm.contract import Parameters, Policy
from namm.memory import Layout
from namm.policies import KeepAll

CHUNK = 128  # tokens read at once at most
SURPRISAL = frozenset({"surprisal"})
_start = jax.jit(start, static_argnums=(0, 2, 3))  # compiled, so that every array has a buffer of its own to donate


@partial(jax.jit, static_argnums=0, static_argnames="scored", donate_argnames="stream")
def _read(
    engine: Engine, params: Params, stream: Stream, tokens: Array, counts: Array, offset: Array, *, scored: bool
) -> tuple[Stream, Array | None]:
    after, hidden = read(engine, params, stream, tokens, counts, offset)
    found = signals(engine, params, stream, tokens, hidden, SURPRISAL)["surprisal"][0] if scored else None
    return after, found


@partial(jax.jit, static_argnums=(0, 4), donate_argnames="stream")
def _update(engine: Engine, memory: Parameters, stream: Stream, budget: Array, layout: Layout) -> Stream:
    return compress(engine, memory, stream, budget, layout)


@partial(jax.jit, static_argnums=0)
def _pick(spec: HostSpec, params: Params, hidden: Array, temperature: Array, key: Array) -> Array:
    scores = logits(params, spec, hidden[0])
    sampled = jax.random.categorical(key, scores / jnp.where(temperature > 0, temperature, 1.0))
    return jnp.where(temperature > 0, sampled, jnp.argmax(scores))


class Reader:
    """One token sequence of any length through a host; at most `budget` tokens a head stay after an update.

    An update follows whenever `memory.interval` tokens came since the last one. The cache has slots for the budget and
    for one interval, whatever is read. At slot positions (`memory.policy.position_rule`) there is no end; at original
    ones `room` tokens are left, since a host knows no positions beyond its own. "keep-all" has a slot for every
    position and no use for the budget. ValueError for a budget or interval that cannot work.
    """

    def __init__(self, host: Host, memory: Memory, budget: int, seed: int = 0):
        spec, slot = host.spec, memory.policy.position_rule == "slot"
        check_fit(spec, memory, budget)
        budget = spec.max_positions if isinstance(memory.policy, KeepAll) else budget
        self.host, self.memory, self.seed = host, memory, seed
        self.chunk = min(memory.interval, CHUNK)
        self.limit = sys.maxsize if slot else spec.max_positions
        kept = min(budget * memory.selection.widest, self.limit)
        self.budget, self.layout = budget, Layout(kept, -(-memory.interval // self.chunk) * self.chunk)
        self.length = budget + memory.interval if slot else spec.max_positions
        self.engine = self._engine(memory.policy)
        self.reset()

    def reset(self) -> None:
        """Forget everything: an empty cache."""
        self.stream = _start(self.engine, self.host.params, 1, self.layout.slots, jax.random.key(self.seed))
        self.seen = self.window = 0  # the stream's own numbers, without waiting for the device

    @property
    def room(self) -> int:
        """Tokens that can still be read."""
        return self.limit - self.seen

    @property
    def step(self) -> int:
        """Tokens that the next chunk can take; 1 where the last one ended within its slots."""
        return min(self.chunk, self.memory.interval - self.window) if self.window % self.chunk == 0 else 1

    def read(self, tokens: Sequence[int], scored: bool = False) -> Float32[np.ndarray, " token"]:
        """Read tokens; -log p of each one given those before it (nats, 0 for the very first), or nothing unless scored.

        ValueError where there is no room for them; nothing is read then.
        """
        if len(tokens) > self.room:
            raise ValueError(
                f"{len(tokens)} tokens do not fit: {self.memory.name} keeps original positions, and of the "
                f"{self.limit} that {self.host.spec.name} has, {self.room} are left. Start anew, or use slot positions"
            )
        found, begin = [np.zeros(0, np.float32)], 0
        while begin < len(tokens):
            part = tokens[begin : begin + self.step]
            surprisal = self._chunk(part, scored)
            if surprisal is not None:
                found.append(np.asarray(surprisal)[: len(part)])
            begin += len(part)
        return np.concatenate(found)

    def _chunk(self, part: Sequence[int], scored: bool) -> Array | None:
        width = 1 if len(part) == 1 else self.chunk
        tokens = np.zeros((1, width), np.int32)
        tokens[0, : len(part)] = part
        counts, offset = np.array([len(part)], np.int32), np.int32(self.layout.kept + self.window)
        self.stream, surprisal = _read(
            self.engine, self.host.params, self.stream, tokens, counts, offset, scored=scored
        )
        self.seen += len(part)
        self.window += len(part)
        if self.window == self.memory.interval:
            self.update()
        return surprisal

    def update(self, policy: Policy | None = None) -> None:
        """An update now; by another policy with the same state where one is given, since a turn may end otherwise."""
        engine = self.engine if policy is None else self._engine(policy)
        budget = np.array([self.budget], np.int32)
        self.stream = _update(engine, self.memory.population, self.stream, budget, self.layout)
        self.window = 0

    def pick(self, temperature: float = 0.0) -> int:
        """The next token: the likeliest at temperature 0, else drawn from the softmax of logits / temperature."""
        key = jax.random.fold_in(jax.random.key(self.seed), self.seen)
        return int(_pick(self.engine.spec, self.host.params, self.stream.hidden, np.float32(temperature), key))

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys, values and the memory's state, all slots, empty ones too."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves((self.stream.cache, self.stream.state)))

    @property
    def kept_share(self) -> float:
        """Tokens in the cache over tokens read, mean over layers and heads."""
        return float(jnp.mean(jnp.sum(self.stream.cache.valid, axis=-1))) / max(self.seen, 1)

    def _engine(self, policy: Policy) -> Engine:
        return make_engine(self.host.spec, policy, self.memory.selection, self.length)


def check_fit(spec: HostSpec, memory: Memory, budget: int) -> None:
    """ValueError for a budget or interval with which a `Reader` cannot work."""
    if memory.interval < 1:
        raise ValueError(f"interval is {memory.interval}; expected 1 or more tokens between updates")
    if budget < memory.selection.protected:
        raise ValueError(f"budget is {budget}; expected at least the {memory.selection.protected} protected tokens")
    if memory.policy.position_rule == "slot" and budget + memory.interval > spec.max_positions:
        raise ValueError(
            f"budget {budget} and interval {memory.interval} need as many slot positions; {spec.name} has "
            f"{spec.max_positions}. Lower one of them"
        )
