"""Grouped-query attention over cache slots that also yields the weights per KV head."""

from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from namm.cache import SlotCache

_product = partial(jnp.einsum, preferred_element_type=jnp.float32)
_LARGE = 2**20  # bytes of one head's weights from which a CPU fares better head by head, within its caches


def slot_attention(
    queries: Float[Array, "batch query_head query dim"],
    caches: Sequence[SlotCache],
    positions: Int[Array, "batch query"],
) -> tuple[Float[Array, "batch query_head query dim"], Float[Array, "batch head query slot"]]:
    """Softmax attention of rotated queries over the slots, float32 inside, and its mean over each KV head's group.

    A query sees every occupied slot whose position is not after its own. `caches` are seen as one, slot after slot;
    their leaves lead with batch. Query heads that share a KV head are consecutive. A query without any visible slot
    (padding) attends uniformly; its output is meaningless.
    """
    batch, query_heads, length, dim = queries.shape
    heads = caches[0].keys.shape[1]
    grouped = queries.reshape(batch, heads, query_heads // heads, length, dim)
    slots = sum(cache.keys.shape[2] for cache in caches)
    inputs = grouped, tuple(caches), positions
    if 4 * (query_heads // heads) * length * slots < _LARGE:
        out, weights = _together(*inputs)
    else:
        out, weights = jax.lax.platform_dependent(*inputs, cpu=_one_by_one, default=_together)
    return out.reshape(queries.shape).astype(queries.dtype), weights


def _together(
    queries: Array, caches: tuple[SlotCache, ...], positions: Array
) -> tuple[Float[Array, "batch head group query dim"], Float[Array, "batch head query slot"]]:
    """All rows and heads at once."""
    return jax.vmap(jax.vmap(_head, in_axes=(0, 0, None)))(queries, caches, positions)


def _one_by_one(
    queries: Array, caches: tuple[SlotCache, ...], positions: Array
) -> tuple[Float[Array, "batch head group query dim"], Float[Array, "batch head query slot"]]:
    def row(inputs: tuple[Array, tuple[SlotCache, ...], Array]) -> tuple[Array, Array]:
        return jax.lax.map(lambda head: _head(head[0], head[1], inputs[2]), inputs[:2])

    return jax.lax.map(row, (queries, caches, positions))


def _head(
    queries: Float[Array, "group query dim"], caches: tuple[SlotCache, ...], positions: Int[Array, " query"]
) -> tuple[Float[Array, "group query dim"], Float[Array, "query slot"]]:
    """One KV head of one row; the leaves of caches lead with slots."""
    group, length, dim = queries.shape
    flat = queries.reshape(group * length, dim)
    logits = jnp.concatenate([_product("qd,sd->qs", flat, cache.keys) for cache in caches], axis=-1)
    seen = [cache.valid & (cache.positions <= positions[:, None]) for cache in caches]
    logits = logits.reshape(group, length, -1) / np.sqrt(dim)
    logits = jnp.where(jnp.concatenate(seen, axis=-1), logits, jnp.finfo(jnp.float32).min)
    powers = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    total = jnp.sum(powers, axis=-1, keepdims=True)
    parts = jnp.split(powers.reshape(group * length, -1), np.cumsum([len(c.valid) for c in caches])[:-1], axis=-1)
    products = [_product("qs,sd->qd", p.astype(c.values.dtype), c.values) for p, c in zip(parts, caches, strict=True)]
    out = reduce(jnp.add, products).reshape(group, length, dim) / total
    return out, jnp.mean(powers / total, axis=0)
