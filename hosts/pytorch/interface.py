"""The attention of an attached model behind `transformers.AttentionInterface`.

A policy that weighs every query gets its attention from the pass that makes the output: `BLOCK` queries at a time over
the slots that they see, [batch, query_head, BLOCK, slot] floats, which a processor's cache can hold. Elsewhere, and for
decoded tokens, the output comes from PyTorch's fused attention, and the layer works the weights out when it needs them
(`NammLayer.observe`).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hosts.pytorch.attention import attend, fused
from hosts.pytorch.cache import Asked, NammLayer, hidden
from hosts.pytorch.compiling import uncompiled

BLOCK = 64  # attention alone on two CPU cores: of 32, 64, 128 and 256 the fastest at 512 to 1,024 slots
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


@uncompiled
def slot_attention(
    module: torch.nn.Module,
    query: Float[Tensor, "batch query_head query dim"],
    key: Float[Tensor, "batch head query dim"],
    value: Float[Tensor, "batch head query dim"],
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    namm_chunk: Chunk | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "batch query query_head dim"], None]:
    """The attention function of an attached model; `namm_chunk` comes through the decoder's keyword arguments.

    key, value: of the chunk; those of all slots stand in its layer.
    """
    refused = [name for name in ("sliding_window", "softcap", "s_aux") if kwargs.get(name) is not None]
    if namm_chunk is None or refused:
        raise ValueError(f"{type(module).__name__} cannot have a memory: it uses {refused or 'a cache of its own'}")
    layer = namm_chunk.layers[int(module.layer_idx)]  # pyright: ignore[reportArgumentType] (every decoder has it)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    length, needs = query.shape[2], layer.policy.policy.needs
    asked = Asked(query.detach(), namm_chunk.positions, namm_chunk.counts, namm_chunk.seen, scale)
    if "attention" in needs and layer.policy.depth is None and length > 1 and not dropout:
        out = _watched(layer, asked, query)
    else:
        parts = zip(query.split(query.shape[1] // len(layer.parts), dim=1), layer.parts, strict=True)
        each = [
            fused(q, part.keys, part.values, hidden(part, asked.positions, layer.dense), scale, dropout)
            for q, part in parts
        ]
        out = torch.cat(each, dim=1) if len(each) > 1 else each[0]
        if needs & {"attention", "queries"}:
            with torch.no_grad():
                layer.observe(asked, None)
    with torch.no_grad():
        if namm_chunk.evict is not None:
            namm_chunk.evict(layer)
        elif length > 1:
            layer.part()
    return out.transpose(1, 2).contiguous(), None


def _watched(layer: NammLayer, asked: Asked, query: Tensor) -> Float[Tensor, "batch query_head query dim"]:
    """The attention's output, block by block; the layer's policy sees the weights of each."""
    slots, out, length = layer.slots, [], query.shape[2]
    key, value, unseen = slots.keys, slots.values, hidden(slots, asked.positions, layer.dense)
    for begin in range(0, length, BLOCK):
        end = min(begin + BLOCK, length)
        later = length - end  # slots of the chunk that no query of the block sees
        seen = key.shape[2] - later
        first = begin if layer.dense else 0  # slots of the chunk before it are seen
        mask = None if unseen is None else unseen[:, :, begin:end, first : unseen.shape[3] - later]
        part, weights = attend(query[:, :, begin:end], key[:, :, :seen], value[:, :, :seen], mask, asked.scaling)
        with torch.no_grad():
            layer.observe(asked.part(begin, end), weights.detach())
        out.append(part)
    return torch.cat(out, dim=2)
