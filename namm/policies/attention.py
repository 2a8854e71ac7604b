"""Policies that look at the attention that tokens receive."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from namm.cache import CacheShape, SlotCache
from namm.contract import Observation, PolicyState
from namm.features import over_heads
from namm.policies.base import BasePolicy, newest, pack, unpack, wide


def _zeros(shape: CacheShape, *rest: int) -> Array:
    return jnp.zeros((shape.heads, shape.slots, *rest), jnp.float32)


@dataclass(frozen=True)
class HeavyHitters(BasePolicy):
    """Attention received so far, summed over all queries (H2O, arXiv 2306.14048, section 4).

    The paper spends half of the cache on the newest tokens: `selection.recent` does that, not the score.
    """

    name = "h2o"
    needs = frozenset({"attention"})

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        return PolicyState({"received": _zeros(shape)}, {})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        real = jnp.arange(observation.attention.shape[1]) < observation.count
        rows = jnp.where(real[:, None], wide(observation.attention), 0.0)
        return state._replace(slots={"received": state.slots["received"] + jnp.sum(rows, axis=1)})

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        return state.slots["received"], state


@dataclass(frozen=True)
class LastQuery(BasePolicy):
    """Attention of the last query, mean over all heads of the layer (TOVA, arXiv 2401.06104, section 3.2).

    Heads are matched by position, so they may hold different tokens; a head without the token adds nothing.
    """

    name = "tova"
    needs = frozenset({"attention"})

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        return PolicyState({"last": _zeros(shape)}, {})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        row = jnp.maximum(observation.count - 1, 0)
        last = jax.lax.dynamic_index_in_dim(wide(observation.attention), row, axis=1, keepdims=False)
        return state._replace(slots={"last": jnp.where(observation.count > 0, last, state.slots["last"])})

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        return over_heads(state.slots["last"], cache), state


@dataclass(frozen=True)
class WindowVote(BasePolicy):
    """Mean attention of the last `window` queries, max-pooled over `kernel` neighbours (SnapKV, arXiv 2404.14469).

    The last `window` tokens are kept first, as in the paper, the newest first. Window and kernel are the paper's for
    LongBench. Its per-query-head votes are the mean over the query heads of a KV head. State: `window` floats per slot
    and KV head, since the queries that will be the last ones are not known in advance.
    """

    name = "snapkv"
    needs = frozenset({"attention"})
    window: int = 32
    kernel: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(window=1, kernel=1)
        if self.kernel % 2 == 0:
            raise ValueError(f"{self.name}: kernel is {self.kernel}; expected an odd number of slots")

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        return PolicyState({"votes": _zeros(shape, self.window)}, {"voters": jnp.zeros((), jnp.int32)})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        rows = jnp.swapaxes(wide(observation.attention), 1, 2)
        votes = jnp.concatenate([state.slots["votes"], rows], axis=2)
        votes = jax.lax.dynamic_slice_in_dim(votes, observation.count, self.window, axis=2)
        voters = jnp.minimum(state.running["voters"] + observation.count, self.window)
        return PolicyState({"votes": votes}, {"voters": voters})

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        mean = jnp.sum(state.slots["votes"], axis=2) / jnp.maximum(state.running["voters"], 1)
        in_window = cache.positions > newest(cache) - self.window
        voted = cache.valid & ~in_window
        side = self.kernel // 2
        pooled = jax.lax.reduce_window(
            pack(mean, voted), -jnp.inf, jax.lax.max, (1, self.kernel), (1, 1), ((0, 0), (side, side))
        )
        # a mean attention is at most 1, so 2 + position is above every vote
        return jnp.where(in_window, 2.0 + wide(cache.positions), unpack(pooled, voted)), state
