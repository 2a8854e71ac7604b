"""Grouped-query attention over cache slots; whoever watches its weights does so row by row, before they are let go."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from namm.cache import SlotCache

_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


def slot_attention(
    queries: Float[Array, "batch query_head query dim"],
    caches: Sequence[SlotCache],
    positions: Int[Array, "batch query"],
    watch: Callable[..., Any],
    watched: tuple[Any, ...] = (),
) -> tuple[Float[Array, "batch query_head query dim"], Any]:
    """Softmax attention of rotated queries over the slots, float32 inside, and what `watch` makes of its weights.

    A query sees every occupied slot whose position is not after its own. `caches` are seen as one, slot after slot;
    their leaves lead with batch. Query heads that share a KV head are consecutive. A query without any visible slot
    (padding) attends uniformly; its output is meaningless.

    watch: called for a row with its weights [head, query, slot], the mean over each KV head's group, and its parts of
    `watched`, whose leaves lead with batch.
    """
    batch, query_heads, length, dim = queries.shape
    heads = caches[0].keys.shape[1]
    grouped = queries.reshape(batch, heads, query_heads // heads, length, dim)

    def row(queries: Array, caches: tuple[SlotCache, ...], positions: Array, watched: tuple[Any, ...]) -> Any:
        out, weights = jax.vmap(_head, in_axes=(0, 0, None))(queries, caches, positions)
        return out, watch(weights, *watched)

    def together(*rows: Any) -> Any:
        return jax.vmap(row)(*rows)

    def one_by_one(*rows: Any) -> Any:
        """A CPU's caches hold the weights of a row, not those of all."""
        return jax.lax.map(lambda parts: row(*parts), rows)

    inputs = grouped, tuple(caches), positions, watched
    out, seen = jax.lax.platform_dependent(*inputs, cpu=one_by_one, default=together)
    return out.reshape(queries.shape).astype(queries.dtype), seen


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
