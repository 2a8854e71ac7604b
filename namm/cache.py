"""A fixed-capacity key-value cache of one layer of one sequence.

Axes: head = KV heads, slot = cache entries, dim = head size. Absence is `valid=False`; valid slots of a head stand in
ascending position order, so "newer" is "larger slot index". Capacity, not the prompt's length, bounds memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num


class CacheShape(NamedTuple):
    """Static sizes of one layer's cache: `group` query heads share each of `heads` KV heads."""

    heads: int
    group: int
    slots: int
    dim: int


class SlotCache(NamedTuple):
    """Keys (after RoPE), values, absolute positions and occupancy of every slot."""

    keys: Float[Array, "head slot dim"]
    values: Float[Array, "head slot dim"]
    positions: Int[Array, "head slot"]
    valid: Bool[Array, "head slot"]


def empty(shape: CacheShape, dtype=jnp.float32) -> SlotCache:
    """A cache without tokens; positions of empty slots are 0 and carry no meaning."""
    entries = jnp.zeros((shape.heads, shape.slots, shape.dim), dtype)
    positions = jnp.zeros((shape.heads, shape.slots), jnp.int32)
    return SlotCache(entries, entries, positions, positions.astype(bool))


def append(
    cache: SlotCache,
    keys: Float[Array, "head query dim"],
    values: Float[Array, "head query dim"],
    positions: Int[Array, " query"],
    valid: Bool[Array, " query"],
    offset: Int[Array, ""] | int,
) -> SlotCache:
    """Write new tokens at slots offset..offset+query. Rows that are not `valid` leave their slot as it was."""
    heads, queries = keys.shape[:2]

    def write(old: Array, new: Array) -> Array:
        start = (0, offset) + (0,) * (old.ndim - 2)
        current = jax.lax.dynamic_slice(old, start, (heads, queries, *old.shape[2:]))
        mask = valid.reshape((1, queries) + (1,) * (old.ndim - 2))
        return jax.lax.dynamic_update_slice(old, jnp.where(mask, new.astype(old.dtype), current), start)

    rows = jnp.broadcast_to(positions, (heads, queries))
    occupied = jnp.ones((heads, queries), bool)
    return SlotCache(*(write(old, new) for old, new in zip(cache, (keys, values, rows, occupied), strict=True)))


def take_slots(
    leaf: Num[Array, "head slot *rest"] | Bool[Array, "head slot *rest"],
    indices: Int[Array, "head kept"],
    keep: Bool[Array, "head kept"],
    slots: int,
) -> Array:
    """Gather the kept slots to the front of a zeroed array of `slots` slots; entries with keep=False become zero."""
    heads, kept = indices.shape
    expand = (heads, kept) + (1,) * (leaf.ndim - 2)
    front = jnp.take_along_axis(leaf, indices.reshape(expand), axis=1)
    front = jnp.where(keep.reshape(expand), front, jnp.zeros((), leaf.dtype))
    return jnp.pad(front, [(0, 0), (0, slots - kept)] + [(0, 0)] * (leaf.ndim - 2))


def slot_bytes(shape: CacheShape, dtype=jnp.float32) -> int:
    """Bytes of keys and values that one slot takes in one layer, all KV heads."""
    return 2 * shape.heads * shape.dim * jnp.dtype(dtype).itemsize
