"""What the training-free policies share: an empty default behaviour and a few facts read off the slots."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from namm.cache import CacheShape, SlotCache
from namm.contract import Observation, PolicyState

POSITION_RULES = ("original", "slot")


@dataclass(frozen=True)
class BasePolicy:
    """A policy that looks at the cache alone. Subclasses set `name` and `needs` and define `score`.

    position_rule: see `namm.contract.Policy`; any policy runs under either rule ("slot": ages are in slots).
    """

    name = ""
    needs = frozenset[str]()
    layered = False
    position_rule: str = "original"

    def __post_init__(self) -> None:
        if self.position_rule not in POSITION_RULES:
            raise ValueError(f"{self.name}: position_rule is {self.position_rule!r}; expected one of {POSITION_RULES}")

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        return PolicyState({}, {})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        return state

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        raise NotImplementedError(f"{self.name} defines no score")

    def at_least(self, **least: int | float) -> None:
        """Raise a ValueError if a field is smaller than the number given for it."""
        for field, bound in least.items():
            if not getattr(self, field) >= bound:
                raise ValueError(f"{self.name}: {field} is {getattr(self, field)}; expected {bound} or more")


def newest(cache: SlotCache) -> Int[Array, "head 1"]:
    """Position of the newest token each head holds, -1 if it holds none."""
    return jnp.max(jnp.where(cache.valid, cache.positions, -1), axis=1, keepdims=True)


def recency_tiers(cache: SlotCache, first: Bool[Array, "head slot"]) -> Float[Array, "head slot"]:
    """Newer is higher, and every `first` slot is above every other one."""
    return (cache.positions + jnp.where(first, newest(cache) + 1, 0)).astype(jnp.float32)


def sinks_first(scores: Float[Array, "head slot"], cache: SlotCache, sinks: int) -> Float[Array, "head slot"]:
    """Score +inf for the tokens at the sequence's first `sinks` positions."""
    return jnp.where(cache.positions < sinks, jnp.inf, scores)


def pack(x: Array, chosen: Bool[Array, "head slot"]) -> Array:
    """The chosen slots of [head, slot, ...] moved to the front in order, zeros behind them."""
    order = jnp.argsort(~chosen, axis=1, stable=True)
    expand = (...,) + (None,) * (x.ndim - 2)
    return jnp.take_along_axis(jnp.where(chosen[expand], x, 0), order[expand], axis=1)


def unpack(packed: Float[Array, "head place"], chosen: Bool[Array, "head slot"]) -> Float[Array, "head slot"]:
    """Undo `pack` for the chosen slots; the others hold anything."""
    rank = jnp.cumsum(chosen, axis=1) - 1
    return jnp.take_along_axis(packed, jnp.maximum(rank, 0), axis=1)


def wide(x: Array) -> Array:
    return x.astype(jnp.float32)


def vector_norm(x: Float[Array, "head slot dim"]) -> Float[Array, "head slot"]:
    return jnp.sqrt(jnp.sum(jnp.square(wide(x)), axis=-1))


def masked_softmax(logits: Float[Array, "... slot"], valid: Bool[Array, "... slot"]) -> Float[Array, "... slot"]:
    """Softmax over the valid entries; zero elsewhere, and everywhere if there are none."""
    return jax.nn.softmax(jnp.where(valid, logits, jnp.finfo(jnp.float32).min), axis=-1) * valid
