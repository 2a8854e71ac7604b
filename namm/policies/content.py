"""Policies that look at keys, values and surprisal, not at attention."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from namm.cache import CacheShape, SlotCache
from namm.content import mean_cosine
from namm.contract import PolicyState
from namm.policies.base import BasePolicy, pack, sinks_first, unpack, vector_norm, wide


@dataclass(frozen=True)
class KeyNorm(BasePolicy):
    """Minus the L2 norm of the key: low norms are kept (arXiv 2406.11430, section 3)."""

    name = "key-norm"

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        return -vector_norm(cache.keys), state


@dataclass(frozen=True)
class KeyDiff(BasePolicy):
    """Minus the cosine of the key to the mean of the head's normalised keys (arXiv 2504.15364, section 3)."""

    name = "keydiff"

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        return -mean_cosine(cache.keys, cache.valid), state


@dataclass(frozen=True)
class LagKV(BasePolicy):
    """Rank of a token within its partition by its spread relative to the next partition (arXiv 2504.04704, section 3).

    Behind `sinks` tokens, every `lag` held tokens are a partition. Keys and values are scaled per channel by the
    minimum and maximum of the next one; a token's spread is the sum of the two softmaxes, over its partition, of the
    standard deviation over channels. The last whole partition and what follows have no reference and are kept first,
    the newest first. The paper compresses a partition once; here the survivors are partitioned anew at each update.
    A budget of `lag` or less leaves nothing but sinks and the newest tokens.
    """

    name = "lagkv"
    lag: int = 128
    sinks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(lag=2, sinks=0)

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        body = cache.valid & (cache.positions >= self.sinks)
        spread = self._spread(cache.keys, body) + self._spread(cache.values, body)
        rank = jnp.argsort(jnp.argsort(spread, axis=2, stable=True), axis=2) / self.lag
        rank = unpack(rank.reshape(rank.shape[0], -1), body)
        partition = (jnp.cumsum(body, axis=1) - 1) // self.lag
        whole = jnp.sum(body, axis=1, keepdims=True) // self.lag
        scores = jnp.where(partition < whole - 1, rank, 1.0 + wide(cache.positions))
        return sinks_first(scores, cache, self.sinks), state

    def _spread(
        self, x: Float[Array, "head slot dim"], body: Bool[Array, "head slot"]
    ) -> Float[Array, "head part lag"]:
        packed = pack(wide(x), body)
        packed = jnp.pad(packed, ((0, 0), (0, -packed.shape[1] % self.lag), (0, 0)))
        parts = packed.reshape(packed.shape[0], -1, self.lag, packed.shape[2])
        low = jnp.roll(jnp.min(parts, axis=2, keepdims=True), -1, axis=1)
        high = jnp.roll(jnp.max(parts, axis=2, keepdims=True), -1, axis=1)
        scaled = (parts - low) / jnp.where(high > low, high - low, 1.0)
        return jax.nn.softmax(jnp.std(scaled, axis=3, ddof=1), axis=2)


@dataclass(frozen=True)
class SirLLM(BasePolicy):
    """Surprisal, times `decay` for every update since the token came, and sinks (arXiv 2405.12528, section 3).

    Its turns are our updates. Whether the decay comes before or after an eviction changes no ranking. The release also
    fills what its entropy budget leaves with the newest tokens: `selection.recent` does that. Sinks are on top of it.
    """

    name = "sirllm"
    signal = "surprisal"
    needs = frozenset({"surprisal"})
    position_rule: str = "slot"
    decay: float = 1.0
    sinks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(decay=0.0, sinks=0)
        if self.decay > 1.0:
            raise ValueError(f"{self.name}: decay is {self.decay}; expected 0 <= decay <= 1")

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        return PolicyState({self.signal: jnp.zeros((shape.heads, shape.slots), jnp.float32)}, {})

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        surprisal = state.slots[self.signal]
        decayed = state._replace(slots={self.signal: self.decay * surprisal})
        return sinks_first(surprisal, cache, self.sinks), decayed


@dataclass(frozen=True)
class ReleasedSirLLM(SirLLM):
    """SirLLM as released: token i scores -log p(x_{i-1} | x_{<i}), the surprisal of repeating the token before it.

    The release gives the first token of every chunk the chunk's largest score; here a sequence's first token gets 0.
    """

    name = "sirllm-released"
    signal = "repeat-surprisal"
    needs = frozenset({"repeat-surprisal"})
