"""Attention over slots: its output, its weights, and the rotation of keys and queries."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention


def fused(
    query: Float[Tensor, "batch query_head query dim"],
    key: Float[Tensor, "batch head slot dim"],
    value: Float[Tensor, "batch head slot dim"],
    hidden: Bool[Tensor, "..."] | None,
    scaling: float,
    dropout: float,
) -> Float[Tensor, "batch query_head query dim"]:
    """PyTorch's attention, the queries that share a KV head side by side: no keys are repeated."""
    heads, slots = key.shape[1:3]
    mask = None
    if hidden is not None:
        mask = pad(~hidden, (slots - hidden.shape[3], 0), value=True).repeat(1, 1, query.shape[1] // heads, 1)
    folded = query.reshape(query.shape[0], heads, -1, query.shape[-1])
    out = scaled_dot_product_attention(folded, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return out.reshape(query.shape)


def attend(
    query: Float[Tensor, "batch query_head query dim"],
    keys: Float[Tensor, "batch head slot dim"],
    values: Float[Tensor, "batch head slot dim"] | None,
    hidden: Bool[Tensor, "..."] | None,
    scaling: float,
) -> tuple[Float[Tensor, "batch query_head query dim"], Float[Tensor, "batch head query slot"]]:
    """The attention's output (the queries, where no values are given) and its softmax weights in float32.

    The weights are the mean over the query heads of each KV head. `hidden` covers the last slots only, as
    `NammLayer.hidden` gives it. The queries that share a KV head stand side by side: no keys are repeated.
    """
    heads = keys.shape[1]
    shape = (query.shape[1] // heads, query.shape[2])
    folded = query.float().reshape(query.shape[0], heads, -1, query.shape[3]) * scaling
    logits = (folded @ keys.float().transpose(2, 3)).unflatten(2, shape)
    if hidden is not None:
        logits[..., -hidden.shape[3] :].masked_fill_(hidden[:, :, None], -torch.inf)
    weights = logits.softmax(-1)
    out = query if values is None else (weights.flatten(2, 3).to(values.dtype) @ values).reshape(query.shape)
    return out, weights.mean(2)


def rotate(
    x: Float[Tensor, "batch head slot dim"], steps: Int[Tensor, "batch head slot"], rates: Float[Tensor, " half"]
) -> Float[Tensor, "batch head slot dim"]:
    """Rotate by `steps` positions, component i with i + half; dimensions past 2 * half stay as they are."""
    half = len(rates)
    angle = steps[..., None].float() * rates
    cos, sin = torch.cos(angle), torch.sin(angle)
    first, second, rest = x.float().split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(x.dtype)
