"""Policies that look at positions alone (`namm.policies.position`) in torch, and what all ports share."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from namm.pytorch.state import CacheShape, Observation, PolicyState, SlotCache, newest, no_slots

Scored = tuple[Tensor, PolicyState]


class BasePort:
    """A port that looks at the cache alone; `policy` holds the settings."""

    depth: int | None = None

    def __init__(self, policy: Any):
        self.policy = policy

    def init(self, shape: CacheShape, device: torch.device, seed: int = 0) -> PolicyState:
        return PolicyState({}, {})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        return state

    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        raise NotImplementedError(f"{self.policy.name} defines no score")


def recency_tiers(cache: SlotCache, first: Bool[Tensor, "batch head slot"]) -> Float[Tensor, "batch head slot"]:
    """Newer is higher, and every `first` slot is above every other one."""
    return (cache.positions + torch.where(first, newest(cache) + 1, 0)).float()


def sinks_first(scores: Tensor, cache: SlotCache, sinks: int) -> Float[Tensor, "batch head slot"]:
    """Score +inf for the tokens at the sequence's first `sinks` positions."""
    return torch.where(cache.positions < sinks, torch.inf, scores)


class KeepAll(BasePort):
    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        return torch.full(cache.positions.shape, torch.inf, device=cache.positions.device), state


class SlidingWindow(BasePort):
    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        return cache.positions.float(), state


class StreamingLLM(BasePort):
    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        return sinks_first(cache.positions.float(), cache, self.policy.sinks), state


class Random(BasePort):
    """A token's priority is a hash of head, position and update, so that neither batch nor padding can change it.

    The numbers differ from those of JAX, their distribution does not.
    """

    def init(self, shape: CacheShape, device: torch.device, seed: int = 0) -> PolicyState:
        zeros = torch.zeros(shape.batch, dtype=torch.int64, device=device)
        return PolicyState({"priority": no_slots(shape, device)}, {"seed": zeros + seed, "updates": zeros})

    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        seed, updates = state.running["seed"], state.running["updates"]
        heads = torch.arange(cache.positions.shape[1], device=seed.device)[:, None]
        number = _mix(_mix(_mix(seed)[:, None, None] + heads) + updates[:, None, None])
        number = _mix(number + cache.positions)
        fresh = ((number & 0xFFFFFF).float() + 0.5) / 2**24
        old = state.slots["priority"]
        priority = torch.where(cache.valid, torch.where(old > 0, old, fresh), 0.0)  # 0 marks a token without one
        return priority, PolicyState({"priority": priority}, {"seed": seed, "updates": updates + 1})


def _mix(x: Tensor) -> Tensor:
    """Scramble 32 bits, with the finaliser of MurmurHash3; the low bits survive the wrap-around of int64."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = x & 0xFFFFFFFF
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 16)


class LogSparse(BasePort):
    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        age = (newest(cache) - cache.positions).clamp(min=0)
        bucket = 32 - torch.frexp(age.double()).exponent  # leading zeros: one less for every doubling of age
        older = torch.where(cache.valid, bucket, -1).cummax(-1).values
        older = torch.nn.functional.pad(older[..., :-1], (1, 0), value=-1)  # of the next older valid slot
        return recency_tiers(cache, bucket > older), state


class SparseStrided(BasePort):
    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        return recency_tiers(cache, (newest(cache) - cache.positions) % self.policy.stride == 0), state


class SparseFixed(BasePort):
    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        summary = cache.positions % self.policy.stride >= self.policy.stride - self.policy.summary
        return recency_tiers(cache, summary), state
