"""A policy from one function of the user."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from namm.policies.base import BasePolicy
from namm.pytorch.position import BasePort, Scored
from namm.pytorch.state import CacheShape, Observation, PolicyState, SlotCache, no_slots, real_rows

Score = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class CustomPolicy(BasePolicy):
    """`function(keys, values, attention, positions) -> scores`, higher = keep.

    keys, values: [batch, head, slot, dim], keys after RoPE. attention: [batch, head, slot], what a slot received from
    the queries since the last update, mean over them. positions: [batch, head, slot], -1 where a slot is empty.
    """

    function: Any = None
    needs = frozenset({"attention"})

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] (a constant in policies with a name)
        return getattr(self.function, "__name__", "custom")


class Custom(BasePort):
    def init(self, shape: CacheShape, device: torch.device, seed: int = 0) -> PolicyState:
        return PolicyState({"received": no_slots(shape, device)}, {"queries": torch.zeros(shape.batch, device=device)})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        attention = observation.attention
        real = real_rows(observation.counts, attention.shape[2], attention.device)
        received = torch.where(real[:, None, :, None], attention, 0.0).sum(2)
        counts = torch.tensor(observation.counts, device=attention.device)
        running = {"queries": state.running["queries"] + counts}
        return PolicyState({"received": state.slots["received"] + received}, running)

    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        attention = state.slots["received"] / state.running["queries"].clamp(min=1.0)[:, None, None]
        positions = torch.where(cache.valid, cache.positions, -1)
        scores = self.policy.function(cache.keys, cache.values, attention, positions)
        if not isinstance(scores, Tensor) or scores.shape != positions.shape:
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"{self.policy.name} returned {got}; expected a tensor of scores [batch, head, slot] = "
                f"{tuple(positions.shape)}"
            )
        fresh = PolicyState(*({k: torch.zeros_like(v) for k, v in part.items()} for part in state))
        return scores.float(), fresh
