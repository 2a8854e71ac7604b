"""Policies that look at keys, values and surprisal (`namm.policies.content`) in torch."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from namm.pytorch.features import mean_cosine, squared_norm
from namm.pytorch.position import BasePort, Scored, sinks_first
from namm.pytorch.state import CacheShape, PolicyState, SlotCache, no_slots, pack, unpack


class KeyNorm(BasePort):
    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        return -cache.keys.float().norm(dim=-1), state


class KeyDiff(BasePort):
    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        keys = cache.keys.float()
        return -mean_cosine(keys, squared_norm(keys), cache.valid), state


class LagKV(BasePort):
    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        lag = self.policy.lag
        body = cache.valid & (cache.positions >= self.policy.sinks)
        spread = self._spread(cache.keys, body) + self._spread(cache.values, body)
        rank = spread.argsort(dim=3, stable=True).argsort(dim=3, stable=True) / lag
        rank = unpack(rank.flatten(2), body)
        partition = (body.cumsum(-1) - 1) // lag
        whole = body.sum(-1, keepdim=True) // lag
        scores = torch.where(partition < whole - 1, rank, 1.0 + cache.positions.float())
        return sinks_first(scores, cache, self.policy.sinks), state

    def _spread(
        self, x: Float[Tensor, "batch head slot dim"], body: Bool[Tensor, "batch head slot"]
    ) -> Float[Tensor, "batch head part lag"]:
        packed = pack(x.float(), body)
        parts = pad(packed, (0, 0, 0, -packed.shape[2] % self.policy.lag)).unflatten(2, (-1, self.policy.lag))
        low = parts.amin(3, keepdim=True).roll(-1, 2)
        high = parts.amax(3, keepdim=True).roll(-1, 2)
        scaled = (parts - low) / torch.where(high > low, high - low, 1.0)
        return scaled.std(dim=4, correction=1).softmax(3)


class SirLLM(BasePort):
    """SirLLM and its released variant: they differ in the signal alone."""

    def init(self, shape: CacheShape, device: torch.device, seed: int = 0) -> PolicyState:
        return PolicyState({self.policy.signal: no_slots(shape, device)}, {})

    def score(self, state: PolicyState, cache: SlotCache) -> Scored:
        surprisal = state.slots[self.policy.signal]
        decayed = state._replace(slots={self.policy.signal: self.policy.decay * surprisal})
        return sinks_first(surprisal, cache, self.policy.sinks), decayed
