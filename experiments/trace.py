"""Which tokens stayed: a policy that remembers where its slots came from, and what is recorded of a prompt."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from transformers import PreTrainedTokenizerBase

from namm.cache import CacheShape, SlotCache
from namm.contract import Observation, Parameters, Policy, PolicyState

ORIGIN, READ, HELD, UPDATES = (f"trace/{name}" for name in ("origin", "read", "held", "updates"))  # no policy's names
PLACES = (READ, HELD, UPDATES)  # what is said of a whole head, beside ORIGIN of every slot
TRACED = 32_768  # tokens of the longest prompts that are recorded token by token


@dataclass(frozen=True)
class Traced:
    """A policy as it is, whose state also says which token stands in every slot: 1 for the first, 0 for none.

    Positions in the cache cannot tell: policies that re-rotate survivors renumber them. history: how many updates to
    count the tokens of that each head holds after them; an update is counted when the next one begins.
    """

    policy: Policy
    history: int = 0

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def needs(self) -> frozenset[str]:
        return self.policy.needs

    @property
    def position_rule(self) -> str:
        return self.policy.position_rule

    @property
    def layered(self) -> bool:
        return self.policy.layered

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        origin = jnp.zeros((shape.heads, shape.slots), jnp.int32)
        held = jnp.zeros((shape.heads, self.history), jnp.int32)
        places = {READ: jnp.int32(0), UPDATES: jnp.int32(0), HELD: held}
        return _with_places(self.policy.init(shape, key), origin, places)

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        new = self.policy.observe(_without_places(state), observation)
        running = {**state.running, READ: observation.seen + observation.count}
        return _with_places(new, state.slots[ORIGIN], running)

    def score(
        self, params: Parameters, state: PolicyState, cache: SlotCache
    ) -> tuple[Float[Array, "head slot"], PolicyState]:
        scores, new = self.policy.score(params, _without_places(state), cache)
        origin, updates, held = state.slots[ORIGIN], state.running[UPDATES], state.running[HELD]
        survived = cache.valid & (origin > 0)
        fresh = cache.valid & (origin == 0)  # the newest tokens, in order
        rank = jnp.cumsum(fresh, axis=1)
        origin = jnp.where(fresh, state.running[READ] - rank[:, -1:] + rank, origin)
        if self.history:
            place = jnp.where(updates > 0, updates - 1, self.history)  # beyond the end: dropped
            held = held.at[:, place].set(jnp.sum(survived, axis=1), mode="drop")
        return scores, _with_places(new, origin, {**state.running, UPDATES: updates + 1, HELD: held})


def _with_places(state: PolicyState, origin: Array, running: Mapping[str, Array]) -> PolicyState:
    return PolicyState({**state.slots, ORIGIN: origin}, {**state.running, **{k: running[k] for k in PLACES}})


def _without_places(state: PolicyState) -> PolicyState:
    slots, running = ({k: v for k, v in part.items() if k not in (ORIGIN, *PLACES)} for part in state)
    return PolicyState(slots, running)


@dataclass(frozen=True)
class Trace:
    """A prompt's context token by token, and which of them every entry kept.

    facts: answers that mean something where they stand in the context. shape: layers and KV heads. kept: per memory and
    budget, `pack`ed bits [layer, head, token]; the full cache is left out. over: likewise, where tokens are dropped
    while the context is read, what was held over time (see `pack_counts`), {} elsewhere.
    """

    task: str
    mode: str
    length: int
    index: int
    tokens: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    facts: tuple[str, ...]
    shape: tuple[int, int]
    kept: Mapping[str, str]
    over: Mapping[str, str]

    def bits(self, entry: str) -> Bool[np.ndarray, "layer head token"]:
        """What one memory kept at one budget."""
        return unpack(self.kept[entry], (*self.shape, len(self.tokens)))


def kept_bits(origin: Int[np.ndarray, "layer head slot"], tokens: int) -> Bool[np.ndarray, "layer head token"]:
    """Bits of the tokens that stand in some slot."""
    bits = np.zeros((*origin.shape[:2], tokens + 1), bool)
    np.put_along_axis(bits, origin, True, axis=2)
    return bits[..., 1:]


def pack(bits: Bool[np.ndarray, "layer head token"]) -> str:
    """Deflated bits in base64; every head's row starts at a byte, its first token in the lowest bit."""
    return base64.b64encode(zlib.compress(np.packbits(bits, axis=-1, bitorder="little").tobytes(), 9)).decode()


def unpack(packed: str, shape: tuple[int, int, int]) -> Bool[np.ndarray, "layer head token"]:
    """The bits that were packed; ValueError where they have another shape."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8)
    width = -(-shape[2] // 8)
    if raw.size != shape[0] * shape[1] * width:
        raise ValueError(f"packed bits have {raw.size} bytes; expected {shape[0] * shape[1] * width} for {shape}")
    return np.unpackbits(raw.reshape(*shape[:2], width), axis=-1, count=shape[2], bitorder="little").astype(bool)


def pack_counts(read: Int[np.ndarray, " update"], held: Int[np.ndarray, "layer head update"]) -> str:
    """After every update, tokens read and held by each head: 1 + layers x heads deflated 32-bit integers in base64."""
    rows = np.concatenate([read[:, None], held.reshape(-1, len(read)).T], axis=1)
    return base64.b64encode(zlib.compress(rows.astype("<u4").tobytes(), 9)).decode()


def unpack_counts(
    packed: str, shape: tuple[int, int]
) -> tuple[Int[np.ndarray, " update"], Int[np.ndarray, "layer head update"]]:
    """The counts that were packed for (layers, heads)."""
    rows = np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<u4").reshape(-1, 1 + shape[0] * shape[1])
    return rows[:, 0].astype(int), rows[:, 1:].T.reshape(*shape, -1).astype(int)


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, ...]:
    """Every token as it reads inside a text: some tokenizers drop the space of a text's first token."""
    texts: dict[int, str] = {}
    for token in set(ids):
        once, twice = (str(tokenizer.decode([token] * n)) for n in (1, 2))
        texts[token] = twice[len(once) :] or once
    return tuple(texts[token] for token in ids)


def together(traces: Sequence[Trace]) -> list[Trace]:
    """One trace a mode and prompt, of all memories that answered it; of one that did so twice the later record."""
    whole: dict[tuple[str, int, int], Trace] = {}
    for trace in traces:
        before = whole.get(place := (trace.mode, trace.length, trace.index), trace)
        whole[place] = replace(trace, kept={**before.kept, **trace.kept}, over={**before.over, **trace.over})
    return list(whole.values())
