"""Policies that look at positions alone."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from namm.cache import CacheShape, SlotCache
from namm.contract import PolicyState
from namm.policies.base import BasePolicy, newest, recency_tiers, sinks_first, wide


@dataclass(frozen=True)
class KeepAll(BasePolicy):
    """Every token scores +inf: only a budget or the capacity can drop it, the newest first."""

    name = "keep-all"

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        return jnp.full(cache.positions.shape, jnp.inf), state


@dataclass(frozen=True)
class SlidingWindow(BasePolicy):
    """Newer is better (Longformer, arXiv 2004.05150, as cache eviction)."""

    name = "sliding-window"

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        return wide(cache.positions), state


@dataclass(frozen=True)
class StreamingLLM(BasePolicy):
    """The first `sinks` tokens, then the newest, at slot positions (arXiv 2309.17453, section 3.2)."""

    name = "streaming-llm"
    position_rule: str = "slot"
    sinks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(sinks=0)

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        return sinks_first(wide(cache.positions), cache, self.sinks), state


@dataclass(frozen=True)
class Random(BasePolicy):
    """A uniform sample of the whole history.

    A token draws its priority in (0, 1) once, so that keeping the highest at every update is the same as drawing once
    from all tokens so far; new draws at each update would favour new tokens.
    """

    name = "random"

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        running = {"seed": jax.random.bits(key, (2,), jnp.uint32), "updates": jnp.zeros((), jnp.uint32)}
        return PolicyState({"priority": jnp.zeros((shape.heads, shape.slots), jnp.float32)}, running)

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        seed, updates = state.running["seed"], state.running["updates"]
        key = jax.random.fold_in(jax.random.wrap_key_data(seed, impl="threefry2x32"), updates)
        old = state.slots["priority"]
        fresh = jax.random.uniform(key, old.shape, minval=jnp.finfo(jnp.float32).tiny)
        priority = jnp.where(cache.valid, jnp.where(old > 0, old, fresh), 0.0)  # 0 marks a token without one
        return priority, PolicyState({"priority": priority}, {"seed": seed, "updates": updates + 1})


@dataclass(frozen=True)
class LogSparse(BasePolicy):
    """One token per dyadic age bucket [2^k, 2^(k+1)), then the newest (after arXiv 1907.00235, section 4.2).

    The paper masks attention to ages 2^k and never drops a token; a dropped one cannot return, so each bucket keeps its
    oldest token, the next to enter the bucket above. The rest of the budget is the paper's local attention.
    """

    name = "logsparse"

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        bucket = jax.lax.clz(jnp.maximum(newest(cache) - cache.positions, 0))  # one less for every doubling of age
        older = jax.lax.cummax(jnp.where(cache.valid, bucket, -1), axis=1)
        older = jnp.pad(older[:, :-1], ((0, 0), (1, 0)), constant_values=-1)  # of the next older valid slot
        return recency_tiers(cache, bucket > older), state


@dataclass(frozen=True)
class SparseStrided(BasePolicy):
    """Ages that are multiples of `stride`, then the newest (arXiv 1904.10509, section 4.3, strided).

    Both index sets of the Sparse Transformer in one head. The kept columns move with the last
    query; they stay in place when the update interval is a multiple of the stride.
    """

    name = "sparse-transformer-strided"
    stride: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(stride=1)

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        return recency_tiers(cache, (newest(cache) - cache.positions) % self.stride == 0), state


@dataclass(frozen=True)
class SparseFixed(BasePolicy):
    """The last `summary` columns of every block of `stride`, then the newest (arXiv 1904.10509, section 4.3, fixed)."""

    name = "sparse-transformer-fixed"
    stride: int = 128
    summary: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(stride=1, summary=1)
        if self.summary > self.stride:
            raise ValueError(f"{self.name}: summary is {self.summary}; expected at most stride = {self.stride}")

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        return recency_tiers(cache, cache.positions % self.stride >= self.stride - self.summary), state
