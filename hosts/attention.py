"""Grouped-query attention over cache slots that also yields the weights per KV head."""

from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from namm.cache import SlotCache

_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


def visible(
    positions: Int[Array, "batch query"], cache_positions: Int[Array, "batch head slot"], valid: Bool[Array, "..."]
) -> Bool[Array, "batch head query slot"]:
    """A query sees every occupied slot whose position is not after its own."""
    return valid[:, :, None, :] & (cache_positions[:, :, None, :] <= positions[:, None, :, None])


def slot_attention(
    queries: Float[Array, "batch query_head query dim"],
    caches: Sequence[SlotCache],
    positions: Int[Array, "batch query"],
) -> tuple[Float[Array, "batch query_head query dim"], Float[Array, "batch head query slot"]]:
    """Softmax attention of rotated queries over the slots, float32 inside, and its mean over each KV head's group.

    `caches` are seen as one, slot after slot; their leaves lead with batch. Query heads that share a KV head are
    consecutive. A query without any visible slot (padding) attends uniformly; its output is meaningless.
    """
    batch, query_heads, length, dim = queries.shape
    heads = caches[0].keys.shape[1]
    grouped = queries.reshape(batch, heads, (query_heads // heads) * length, dim)
    products = (_product("bhqd,bhsd->bhqs", grouped, cache.keys) for cache in caches)
    logits = jnp.concatenate(list(products), axis=-1)
    logits = logits.reshape(batch, heads, -1, length, logits.shape[-1]) / np.sqrt(dim)
    masks = [visible(positions, cache.positions, cache.valid) for cache in caches]
    mask = jnp.concatenate(masks, axis=-1)[:, :, None]
    weights = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(jnp.float32).min), axis=-1)
    flat = weights.reshape(batch, heads, -1, weights.shape[-1]).astype(caches[0].values.dtype)
    parts = jnp.split(flat, np.cumsum([cache.values.shape[2] for cache in caches])[:-1], axis=-1)
    outputs = (_product("bhqs,bhsd->bhqd", part, cache.values) for part, cache in zip(parts, caches, strict=True))
    out = reduce(jnp.add, outputs)
    return out.reshape(queries.shape).astype(queries.dtype), jnp.mean(weights, axis=2)
