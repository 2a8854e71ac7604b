"""Which tokens stayed: a policy that remembers where its slots came from, and what is recorded of a prompt."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from transformers import PreTrainedTokenizerBase

from namm.cache import CacheShape, SlotCache
from namm.contract import Observation, Parameters, Policy, PolicyState

ORIGIN, READ = "origin", "read"


@dataclass(frozen=True)
class Traced:
    """A policy as it is, whose state also says which token stands in every slot: 1 for the first, 0 for none.

    Positions in the cache cannot tell: policies that re-rotate survivors renumber them.
    """

    policy: Policy

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def needs(self) -> frozenset[str]:
        return self.policy.needs

    @property
    def position_rule(self) -> str:
        return self.policy.position_rule

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        origin = jnp.zeros((shape.heads, shape.slots), jnp.int32)
        return _with_places(self.policy.init(shape, key), origin, jnp.int32(0))

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        new = self.policy.observe(_without_places(state), observation)
        return _with_places(new, state.slots[ORIGIN], observation.seen + observation.count)

    def score(
        self, params: Parameters, state: PolicyState, cache: SlotCache
    ) -> tuple[Float[Array, "head slot"], PolicyState]:
        scores, new = self.policy.score(params, _without_places(state), cache)
        origin, read = state.slots[ORIGIN], state.running[READ]
        fresh = cache.valid & (origin == 0)  # the newest tokens, in order
        rank = jnp.cumsum(fresh, axis=1)
        return scores, _with_places(new, jnp.where(fresh, read - rank[:, -1:] + rank, origin), read)


def _with_places(state: PolicyState, origin: Array, read: Array) -> PolicyState:
    return PolicyState({**state.slots, ORIGIN: origin}, {**state.running, READ: read})


def _without_places(state: PolicyState) -> PolicyState:
    slots, running = ({k: v for k, v in part.items() if k not in (ORIGIN, READ)} for part in state)
    return PolicyState(slots, running)


@dataclass(frozen=True)
class Trace:
    """A prompt's context token by token, and which of them every entry kept.

    facts: answers that mean something where they stand in the context. shape: layers and KV heads. kept: per memory and
    budget, `pack`ed bits [layer, head, token]; the full cache is left out.
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


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, ...]:
    """Every token as it reads inside a text: some tokenizers drop the space of a text's first token."""
    texts: dict[int, str] = {}
    for token in set(ids):
        once, twice = (str(tokenizer.decode([token] * n)) for n in (1, 2))
        texts[token] = twice[len(once) :] or once
    return tuple(texts[token] for token in ids)
