"""Grouped-query attention over cache slots that also yields the weights per KV head."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from namm.cache import SlotCache


def visible(
    positions: Int[Array, "batch query"], cache_positions: Int[Array, "batch head slot"], valid: Bool[Array, "..."]
) -> Bool[Array, "batch head query slot"]:
    """A query sees every occupied slot whose position is not after its own."""
    return valid[:, :, None, :] & (cache_positions[:, :, None, :] <= positions[:, None, :, None])


def slot_attention(
    queries: Float[Array, "batch query_head query dim"], cache: SlotCache, positions: Int[Array, "batch query"]
) -> tuple[Float[Array, "batch query_head query dim"], Float[Array, "batch head query slot"]]:
    """Softmax attention of rotated queries over the slots, float32 inside, and its mean over each KV head's group.

    `cache` leaves lead with batch. Query heads that share a KV head are consecutive. A query without any visible slot
    (padding) attends uniformly; its output is meaningless.
    """
    batch, query_heads, length, dim = queries.shape
    heads = cache.keys.shape[1]
    grouped = queries.reshape(batch, heads, (query_heads // heads) * length, dim)
    logits = jnp.einsum("bhqd,bhsd->bhqs", grouped, cache.keys, preferred_element_type=jnp.float32)
    logits = logits.reshape(batch, heads, -1, length, logits.shape[-1]) / np.sqrt(dim)
    mask = visible(positions, cache.positions, cache.valid)[:, :, None]
    weights = jax.nn.softmax(jnp.where(mask, logits, jnp.finfo(jnp.float32).min), axis=-1)
    flat = weights.reshape(batch, heads, -1, weights.shape[-1]).astype(cache.values.dtype)
    out = jnp.einsum("bhqs,bhsd->bhqd", flat, cache.values, preferred_element_type=jnp.float32)
    return out.reshape(queries.shape).astype(queries.dtype), jnp.mean(weights, axis=2)
