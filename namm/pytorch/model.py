"""The memory model in torch: features of `namm.model`, scorers of `namm.network`."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from namm.content import CONTENT
from namm.model import DEVIATION_FLOOR, WATCHING, NammPolicy
from namm.network import QUERY_BLOCK
from namm.pytorch.features import content, content_of_read, features, nothing_read, observe_spectrum
from namm.pytorch.state import CacheShape, Observation, PolicyState, SlotCache, no_slots


class TorchNamm:
    """`NammPolicy` with a layer's parameters as float32 tensors."""

    def __init__(self, policy: NammPolicy, evolved: dict[str, Any], frozen: dict[str, Tensor]):
        self.policy = policy
        config = policy.config
        self.depth: int | None = None if "spectrum" in config.features else config.spectrum.window
        self.evolved = evolved["params"]
        self.mean = frozen["mean"]
        self.deviation = frozen["variance"].sqrt().clamp(min=DEVIATION_FLOOR)

    def init(self, shape: CacheShape, device: torch.device, seed: int = 0) -> PolicyState:
        slots: dict[str, Tensor] = {}
        spectrum = self.policy.config.spectrum
        if WATCHING & set(self.policy.config.features):
            slots["recent"] = no_slots(shape, device, spectrum.window)
        if "spectrum" in self.policy.config.features:
            slots["average"] = no_slots(shape, device, spectrum.bins)
        if "surprisal" in self.policy.config.features:
            slots["surprisal"] = no_slots(shape, device)
        nothing = nothing_read(shape.batch, shape.heads, shape.dim, device) if self.policy.remembers else {}
        return PolicyState(slots, nothing)

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        if not WATCHING & set(self.policy.config.features):
            return state
        seen = observe_spectrum(self.policy.config.spectrum, state.slots, observation)
        return state._replace(slots={**state.slots, **seen})

    def score(self, state: PolicyState, cache: SlotCache) -> tuple[Float[Tensor, "batch head slot"], PolicyState]:
        features, state = self.features(state, cache)
        return self._apply(features, cache.valid), state

    def features(
        self, state: PolicyState, cache: SlotCache
    ) -> tuple[Float[Tensor, "batch head slot feature"], PolicyState]:
        """The blocks of the configuration side by side, the spectrum normalised."""
        slots, running = dict(state.slots), state.running
        if self.policy.remembers:
            slots["content"], slots["levels"], running = content_of_read(cache, running)
        elif CONTENT & set(self.policy.config.features):
            slots["content"], slots["levels"] = content(cache)
        columns = features(self.policy.config.features, slots, cache)
        if "spectrum" in columns:
            device = columns["spectrum"].device
            columns["spectrum"] = (columns["spectrum"] - self.mean.to(device)) / self.deviation.to(device)
        return torch.cat(list(columns.values()), dim=-1), state._replace(running=running)

    def _apply(
        self, x: Float[Tensor, "batch head slot feature"], valid: Bool[Tensor, "batch head slot"]
    ) -> Float[Tensor, "batch head slot"]:
        if self.policy.config.scorer.kind == "bam":
            q, k, v = self._dense("attention_in", x).chunk(3, dim=-1)
            shift, scale = self._dense("attention_out", backward_attention(q, k, v, valid)).chunk(2, dim=-1)
            return self._dense("score", x * (1.0 + scale) + shift)[..., 0]
        score = self._dense("score", x)
        if self.policy.config.scorer.kind == "mlp":
            score = score + self._dense("outer", torch.tanh(self._dense("inner", x)))
        return score[..., 0]

    def _dense(self, name: str, x: Tensor) -> Tensor:
        layer = {kind: weights.to(x.device) for kind, weights in self.evolved[name].items()}
        product = x @ layer["kernel"]
        return product + layer["bias"][..., None, :] if "bias" in layer else product


def backward_attention(
    q: Float[Tensor, "batch head slot dim"],
    k: Float[Tensor, "batch head slot dim"],
    v: Float[Tensor, "batch head slot dim"],
    valid: Bool[Tensor, "batch head slot"],
) -> Float[Tensor, "batch head slot dim"]:
    """Softmax attention of each slot over itself and NEWER valid slots, in blocks of queries over the keys they see."""
    slots, dim = q.shape[2:]
    out = []
    for start in range(0, slots, QUERY_BLOCK):
        queries = q[:, :, start : start + QUERY_BLOCK]
        length = queries.shape[2]
        logits = queries @ k[:, :, start:].transpose(2, 3) / dim**0.5
        newer = torch.ones(length, slots - start, dtype=torch.bool, device=q.device).triu()
        logits = logits.masked_fill(~(newer & valid[:, :, None, start:]), torch.finfo(torch.float32).min)
        out.append(logits.softmax(-1) @ v[:, :, start:])
    return torch.cat(out, dim=2)
