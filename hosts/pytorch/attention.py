"""Attention over slots behind `transformers.AttentionInterface`, and what a policy sees of it.

The output comes from `scaled_dot_product_attention`. Where a policy needs attention weights, a second pass over the
same slots makes them for one chunk and one query head of each group at a time: [batch, head, query, slot] floats.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hosts.pytorch.cache import NammLayer
from hosts.pytorch.memory.state import Observation

NAME = "namm"  # the attention implementation of a model with a memory attached; no other model's config names it


class Chunk:
    """The rows of one forward: positions [batch, query], tokens per row, tokens seen before."""

    def __init__(
        self, layers: list[NammLayer], positions: Int[Tensor, "batch query"], counts: list[int], seen: list[int]
    ):
        self.layers, self.positions = layers, positions
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
    batch, query_heads, length, dim = query.shape
    heads = key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    mask = _visible(layer, namm_chunk, length)
    folded = query.reshape(batch, heads, -1, dim)  # the queries that share a KV head side by side: no keys repeated
    wide = None if mask is None else mask.repeat(1, 1, query_heads // heads, 1)
    out = scaled_dot_product_attention(folded, key, value, attn_mask=wide, dropout_p=dropout, scale=scale)
    _observe(layer, namm_chunk, query, mask, scale)
    return out.reshape(query.shape).transpose(1, 2).contiguous(), None


def _visible(layer: NammLayer, chunk: Chunk, length: int) -> Bool[Tensor, "batch head query slot"] | None:
    """A query sees every occupied slot whose position is not after its own; None: it sees all of them."""
    if layer.dense and length == 1:
        return None
    slots = layer.slots.valid.shape[2]
    if layer.dense:
        ones = torch.ones(length, slots, dtype=torch.bool, device=layer.device)
        return ones.tril(slots - length)[None, None]
    positions = chunk.positions.to(layer.device)
    seen = layer.valid[:, :, None] & (layer.positions[:, :, None] <= positions[:, None, :, None])
    return seen | ~seen.any(-1, keepdim=True)  # a column without a token sees anything rather than nothing: no NaN


@torch.no_grad()
def _observe(layer: NammLayer, chunk: Chunk, query: Tensor, mask: Tensor | None, scaling: float) -> None:
    needs = layer.policy.policy.needs
    if not needs & {"attention", "queries"}:
        return
    keys, positions, seen = layer.slots.keys, chunk.positions, chunk.seen
    depth, length, counts = layer.policy.depth, query.shape[2], chunk.counts
    if depth is not None and depth < length and set(counts) == {length}:  # no older query can matter
        query, positions = query[:, :, -depth:], positions[:, -depth:]
        mask = None if mask is None else mask[:, :, -depth:]
        seen, counts = tuple(n + length - depth for n in seen), (depth,) * len(counts)
    if "attention" in needs:
        attention = slot_weights(query, keys, mask, scaling)
    else:
        attention = torch.zeros(*keys.shape[:2], query.shape[2], 0, device=keys.device)
    queries = query[:, :, :0]
    if "queries" in needs:
        rope = layer.policy.policy
        rates = torch.tensor(rope.frequencies, device=query.device)
        steps = -positions.to(query.device)[:, None].expand(query.shape[:3])
        queries = rotate(query, steps, rates) / rope.scale
    layer.observe(Observation(attention, queries, counts, seen))


def slot_weights(
    query: Float[Tensor, "batch query_head query dim"],
    keys: Float[Tensor, "batch head slot dim"],
    mask: Bool[Tensor, "..."] | None,
    scaling: float,
) -> Float[Tensor, "batch head query slot"]:
    """Softmax weights in float32, mean over the query heads of each KV head."""
    groups = query.float().unflatten(1, (keys.shape[1], -1)).unbind(2)
    wide = keys.float().transpose(2, 3)
    total = None
    for part in groups:
        logits = (part * scaling) @ wide
        weights = (logits if mask is None else logits.masked_fill_(~mask, -torch.inf)).softmax(-1)
        total = weights if total is None else total.add_(weights)
    assert total is not None
    return total.div_(len(groups))


def rotate(
    x: Float[Tensor, "batch head slot dim"], steps: Int[Tensor, "batch head slot"], rates: Float[Tensor, " half"]
) -> Float[Tensor, "batch head slot dim"]:
    """Rotate by `steps` positions, component i with i + half; dimensions past 2 * half stay as they are."""
    half = len(rates)
    angle = steps[..., None].float() * rates
    cos, sin = torch.cos(angle), torch.sin(angle)
    first, second, rest = x.float().split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(x.dtype)
