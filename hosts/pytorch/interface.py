"""The attention of an attached model behind `transformers.AttentionInterface`.

A policy that weighs every query gets its attention from the pass that makes the output: one query head of each group at
a time, [batch, head, query, slot] floats. Elsewhere, and for decoded tokens, the output comes from PyTorch's fused
attention, and the layer works the weights out when it needs them (`NammLayer.observe`).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hosts.pytorch.attention import attend, fused
from hosts.pytorch.cache import Asked, NammLayer

NAME = "namm"  # the attention implementation of a model with a memory attached; no other model's config names it


class Chunk:
    """The rows of one forward: positions [batch, query], tokens per row, tokens seen before.

    evict: what a layer does once its attention is done, so that no two layers ever hold a whole interval.
    """

    def __init__(
        self,
        layers: list[NammLayer],
        positions: Int[Tensor, "batch query"],
        counts: list[int],
        seen: list[int],
        evict: Callable[[NammLayer], None] | None,
    ):
        self.layers, self.positions, self.evict = layers, positions, evict
        self.counts, self.seen = tuple(counts), tuple(seen)


def slot_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "batch query_head query dim"],
    key: Float[Tensor, "batch head slot dim"],
    value: Float[Tensor, "batch head slot dim"],
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    namm_chunk: Chunk | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch query query_head dim"], None]:
    """The attention function of an attached model; `namm_chunk` comes through the decoder's keyword arguments."""
    refused = [name for name in ("sliding_window", "softcap", "s_aux") if kwargs.get(name) is not None]
    if namm_chunk is None or refused:
        raise ValueError(f"{type(module).__name__} cannot have a memory: it uses {refused or 'a cache of its own'}")
    layer = namm_chunk.layers[int(module.layer_idx)]  # pyright: ignore[reportArgumentType] (every decoder has it)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    length, needs = query.shape[2], layer.policy.policy.needs
    hidden = layer.hidden(namm_chunk.positions)
    if "attention" in needs and layer.policy.depth is None and length > 1 and not dropout:
        out, attention = attend(query, key, value, hidden, scale)
    else:
        out, attention = fused(query, key, value, hidden, scale, dropout), None
    with torch.no_grad():
        if needs & {"attention", "queries"}:
            asked = Asked(query.detach(), namm_chunk.positions, namm_chunk.counts, namm_chunk.seen, scale)
            layer.observe(asked, attention)
        if namm_chunk.evict is not None:
            namm_chunk.evict(layer)
    return out.transpose(1, 2).contiguous(), None
