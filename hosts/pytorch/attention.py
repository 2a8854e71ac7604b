"""Attention over slots behind `transformers.AttentionInterface`, and what a policy sees of it.

A policy that weighs every query gets its attention from the pass that makes the output: one query head of each group at
a time, [batch, head, query, slot] floats. Elsewhere the output comes from `scaled_dot_product_attention`, and a policy
that weighs the last queries alone gets theirs from a pass of their own.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from hosts.pytorch.cache import NammLayer
from namm.pytorch.state import Observation

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
    hidden = _hidden(layer, namm_chunk, query.shape[2])
    needs, depth = layer.policy.policy.needs, layer.policy.depth
    if "attention" in needs and depth is None and not dropout:
        out, attention = attend(query, key, value, hidden, scale)
    else:
        out, attention = _fast(query, key, value, hidden, scale, dropout), None
    with torch.no_grad():
        if needs & {"attention", "queries"}:
            _observe(layer, namm_chunk, query, hidden, scale, attention)
        if namm_chunk.evict is not None:
            namm_chunk.evict(layer)
    return out.transpose(1, 2).contiguous(), None


def _hidden(layer: NammLayer, chunk: Chunk, length: int) -> Bool[Tensor, "batch head query last"] | None:
    """What queries do not see among the last slots; all slots before them are seen. None: everything is.

    A query sees every occupied slot whose position is not after its own.
    """
    if layer.dense:
        later = torch.ones(length, length, dtype=torch.bool, device=layer.device).triu(1)
        return later[None, None] if length > 1 else None
    positions = chunk.positions.to(layer.device)
    hidden = ~layer.valid[:, :, None] | (layer.positions[:, :, None] > positions[:, None, :, None])
    return hidden & ~hidden.all(-1, keepdim=True)  # a column without a token sees anything rather than nothing: no NaN


def _fast(
    query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, scaling: float, dropout: float
) -> Float[Tensor, "batch query_head query dim"]:
    """PyTorch's attention, the queries that share a KV head side by side: no keys are repeated."""
    heads, slots = key.shape[1:3]
    mask = None
    if hidden is not None:
        mask = pad(~hidden, (slots - hidden.shape[3], 0), value=True).repeat(1, 1, query.shape[1] // heads, 1)
    folded = query.reshape(query.shape[0], heads, -1, query.shape[-1])
    out = scaled_dot_product_attention(folded, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return out.reshape(query.shape)


def _observe(
    layer: NammLayer, chunk: Chunk, query: Tensor, hidden: Tensor | None, scaling: float, attention: Tensor | None
) -> None:
    """Tell the policy what it needs of a chunk; `attention` where the output's pass made it."""
    needs = layer.policy.policy.needs
    keys, positions, seen = layer.slots.keys, chunk.positions, chunk.seen
    depth, length, counts = layer.policy.depth, query.shape[2], chunk.counts
    if depth is not None and depth < length and set(counts) == {length}:  # no older query can matter
        query, positions = query[:, :, -depth:], positions[:, -depth:]
        hidden = None if hidden is None else hidden[:, :, -depth:]
        seen, counts = tuple(n + length - depth for n in seen), (depth,) * len(counts)
    if attention is None and "attention" in needs:
        attention = attend(query, keys, None, hidden, scaling)[1]
    if attention is None:
        attention = torch.zeros(*keys.shape[:2], query.shape[2], 0, device=keys.device)
    queries = query[:, :, :0]
    if "queries" in needs:
        rope = layer.policy.policy
        rates = torch.tensor(rope.frequencies, device=query.device)
        steps = -positions.to(query.device)[:, None].expand(query.shape[:3])
        queries = rotate(query, steps, rates) / rope.scale
    layer.observe(Observation(attention, queries, counts, seen))


def attend(
    query: Float[Tensor, "batch query_head query dim"],
    keys: Float[Tensor, "batch head slot dim"],
    values: Float[Tensor, "batch head slot dim"] | None,
    hidden: Bool[Tensor, "..."] | None,
    scaling: float,
) -> tuple[Float[Tensor, "batch query_head query dim"], Float[Tensor, "batch head query slot"]]:
    """The attention's output (the queries, where no values are given) and its softmax weights in float32.

    The weights are the mean over the query heads of each KV head. `hidden` covers the last slots only (`_hidden`).
    """
    grouped, wide = query.float().unflatten(1, (keys.shape[1], -1)), keys.float().transpose(2, 3)
    if query.shape[2] == 1:  # the weights are small: all heads of a group at once
        out, weights = _weigh(grouped.flatten(2, 3), wide, values, hidden, scaling)
        return (query if out is None else out.reshape(query.shape)), weights.detach().mean(2, keepdim=True)
    outputs, total = [], None
    for part in grouped.unbind(2):
        out, weights = _weigh(part, wide, values, hidden, scaling)
        outputs.append(out)
        if weights.requires_grad:  # the backward pass needs the weights as they are
            weights = weights.detach().clone()
        total = weights if total is None else total.add_(weights)
    assert total is not None
    out = query if values is None else torch.stack(outputs, 2).reshape(query.shape)
    return out, total.div_(grouped.shape[2])


def _weigh(
    query: Tensor, wide: Tensor, values: Tensor | None, hidden: Tensor | None, scaling: float
) -> tuple[Tensor | None, Tensor]:
    """Output and softmax weights of one query per KV head and row; `wide` are keys [batch, head, dim, slot]."""
    logits = (query * scaling) @ wide
    if hidden is not None:
        logits[..., -hidden.shape[3] :].masked_fill_(hidden, -torch.inf)
    weights = logits.softmax(-1)
    return (None if values is None else weights.to(values.dtype) @ values), weights


def rotate(
    x: Float[Tensor, "batch head slot dim"], steps: Int[Tensor, "batch head slot"], rates: Float[Tensor, " half"]
) -> Float[Tensor, "batch head slot dim"]:
    """Rotate by `steps` positions, component i with i + half; dimensions past 2 * half stay as they are."""
    half = len(rates)
    angle = steps[..., None].float() * rates
    cos, sin = torch.cos(angle), torch.sin(angle)
    first, second, rest = x.float().split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(x.dtype)
