"""Policies that look at attention or at queries (`namm.policies.attention`, `namm.policies.expected`) in torch."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool1d

from namm.pytorch.features import over_heads
from namm.pytorch.position import BasePort, Scored, sinks_first
from namm.pytorch.state import (
    CacheShape,
    Observation,
    PolicyState,
    SlotCache,
    newest,
    no_slots,
    pack,
    real_rows,
    slide,
    unpack,
)


class HeavyHitters(BasePort):
    def init(self, shape: CacheShape, device: torch.device, seed: int = 0) -> PolicyState:
        return PolicyState({"received": no_slots(shape, device)}, {})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        attention = observation.attention.float()
        real = real_rows(observation.counts, attention.shape[2], attention.device)
        if min(observation.counts) < attention.shape[2]:
            attention = torch.where(real[:, None, :, None], attention, 0.0)
        received = attention.sum(2)
        return state._replace(slots={"received": state.slots["received"] + received})

    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        return state.slots["received"], state


class LastQuery(BasePort):
    depth = 1

    def init(self, shape: CacheShape, device: torch.device, seed: int = 0) -> PolicyState:
        return PolicyState({"last": no_slots(shape, device)}, {})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        rows = torch.cat([state.slots["last"][:, :, None], observation.attention.float()], dim=2)
        return state._replace(slots={"last": slide(rows, observation.counts, 1)[:, :, 0].contiguous()})

    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        return over_heads(state.slots["last"], cache), state


class WindowVote(BasePort):
    def __init__(self, policy: Any):
        super().__init__(policy)
        self.depth = policy.window

    def init(self, shape: CacheShape, device: torch.device, seed: int = 0) -> PolicyState:
        voters = torch.zeros(shape.batch, dtype=torch.int64, device=device)
        return PolicyState({"votes": no_slots(shape, device, self.policy.window)}, {"voters": voters})

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        rows = torch.cat([state.slots["votes"].transpose(2, 3), observation.attention.float()], dim=2)
        votes = slide(rows, observation.counts, self.policy.window).transpose(2, 3).contiguous()
        voters = state.running["voters"]
        voters = (voters + torch.tensor(observation.counts, device=voters.device)).clamp(max=self.policy.window)
        return PolicyState({"votes": votes}, {"voters": voters})

    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        mean = state.slots["votes"].sum(-1) / state.running["voters"].clamp(min=1)[:, None, None]
        in_window = cache.positions > newest(cache) - self.policy.window
        voted = cache.valid & ~in_window
        pooled = max_pool1d(pack(mean, voted), self.policy.kernel, stride=1, padding=self.policy.kernel // 2)
        # a mean attention is at most 1, so 2 + position is above every vote
        return torch.where(in_window, 2.0 + cache.positions.float(), unpack(pooled, voted)), state


class ExpectedAttention(BasePort):
    def init(self, shape: CacheShape, device: torch.device, seed: int = 0) -> PolicyState:
        if 2 * len(self.policy.frequencies) != shape.dim:
            raise ValueError(
                f"{self.policy.name}: {len(self.policy.frequencies)} RoPE frequencies; expected half the head size, "
                f"{shape.dim // 2}: this policy needs a host that rotates whole heads"
            )
        lead = (shape.batch, shape.heads * shape.group)
        running = {
            "count": torch.zeros(shape.batch, device=device),
            "mean": torch.zeros(*lead, shape.dim, device=device),
            "scatter": torch.zeros(*lead, shape.dim, shape.dim, device=device),
        }
        return PolicyState({}, running)

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        """Merge the chunk's count, mean and scatter into the running ones (Chan et al. 1983: no cancellation)."""
        old, queries = state.running, observation.queries.float()
        rows = torch.arange(queries.shape[2], device=queries.device)
        seen = torch.tensor(observation.seen, device=queries.device)[:, None]
        used = real_rows(observation.counts, len(rows), queries.device) & (seen + rows >= self.policy.sinks)
        mask = used[:, None, :, None]
        count = used.sum(1).float()
        mean = torch.where(mask, queries, 0.0).sum(2) / count.clamp(min=1.0)[:, None, None]
        centred = torch.where(mask, queries - mean[:, :, None], 0.0)
        total = old["count"] + count
        shift = mean - old["mean"]
        share = (count / total.clamp(min=1.0))[:, None, None]
        outer = shift[..., :, None] * shift[..., None, :]
        scatter = old["scatter"] + centred.transpose(2, 3) @ centred
        scatter = scatter + old["count"][:, None, None, None] * share[..., None] * outer
        return state._replace(running={"count": total, "mean": old["mean"] + share * shift, "scatter": scatter})

    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        batch, heads, _, dim = cache.keys.shape
        keys = self._rotate_back(cache)
        mean = state.running["mean"].reshape(batch, heads, -1, dim)
        covariance = state.running["scatter"] / state.running["count"].clamp(min=1.0)[:, None, None, None]
        covariance = covariance.reshape(batch, heads, -1, dim, dim)
        linear = torch.einsum("bhsi,bhgi->bhgs", keys, mean) / math.sqrt(dim)
        quadratic = ((keys[:, :, None] @ covariance) * keys[:, :, None]).sum(-1) / (2 * dim)
        counted = (cache.valid & (cache.positions >= self.policy.sinks))[:, :, None]
        logits = (linear + quadratic).masked_fill(~counted, torch.finfo(torch.float32).min)
        expected = (logits.softmax(-1) * counted).mean(2)
        return sinks_first(expected * cache.values.float().norm(dim=-1), cache, self.policy.sinks), state

    def _rotate_back(self, cache: SlotCache) -> Float[Tensor, "batch head slot dim"]:
        """R'k, with R the mean rotation of the `future` positions after the newest token of a row."""
        frequencies = np.asarray(self.policy.frequencies)
        steps = np.arange(1, self.policy.future + 1)
        ahead = self.policy.scale * np.exp(1j * np.outer(frequencies, steps)).mean(axis=1)
        device = cache.keys.device
        real, imaginary, rates = (
            torch.from_numpy(x.astype(np.float32)).to(device) for x in (ahead.real, ahead.imag, frequencies)
        )
        angle = newest(cache).amax(1, keepdim=True).float() * rates
        angle = angle.reshape(len(angle), 1, 1, -1)
        cos = real * torch.cos(angle) - imaginary * torch.sin(angle)
        sin = real * torch.sin(angle) + imaginary * torch.cos(angle)
        first, second = cache.keys.float().chunk(2, dim=-1)
        return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)
