"""What a token's key and value are, beside those of the other tokens of its head; each feature of unit variance.

"The other tokens" are those that the head holds, or all that it has read (in running statistics). What makes a feature
of unit variance, mean and deviation of the head's tokens, are its levels: they differ from one kind of text to another.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from namm.cache import SlotCache

CONTENT = {"key-cosine", "value-cosine", "norms", "near", "levels"}  # blocks of what a token's key and value are
NEAR = 4  # positions to either side; measured on SmolLM2 needles: 4 above 2 and 8


def standardise(x: Float[Array, "head slot"], valid: Bool[Array, "head slot"]) -> Float[Array, "head slot"]:
    """Zero mean and unit variance over the occupied slots of a head: the same meaning on every host."""
    x = jnp.where(valid, x, 0.0)
    total = jnp.maximum(jnp.sum(valid, axis=1, keepdims=True), 1)
    centred = jnp.where(valid, x - jnp.sum(x, axis=1, keepdims=True) / total, 0.0)
    variance = jnp.sum(centred * centred, axis=1, keepdims=True) / total
    return centred * jax.lax.rsqrt(variance + 1e-6)


def unit(x: Float[Array, "*axes dim"]) -> Float[Array, "*axes dim"]:
    """Vectors of length 1, float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)


def mean_cosine(x: Float[Array, "head slot dim"], valid: Bool[Array, "head slot"]) -> Float[Array, "head slot"]:
    """Cosine of each vector to the mean direction of its head's (of keys: arXiv 2504.15364)."""
    units = unit(x)
    mean = unit(jnp.sum(jnp.where(valid[..., None], units, 0.0), axis=1))
    return jnp.einsum("hsd,hd->hs", units, mean)


def log_norm(x: Float[Array, "head slot dim"]) -> Float[Array, "head slot"]:
    x = x.astype(jnp.float32)
    return 0.5 * jnp.log(jnp.sum(x * x, axis=-1) + 1e-12)


def content(cache: SlotCache) -> tuple[Float[Array, "head slot 4"], Float[Array, "head 2 4"]]:
    """Cosines of key and value to their head's mean, and their log norms, relative to the tokens the head holds.

    And their levels: the mean and the deviation that this takes away.
    """
    pair = (cache.keys, cache.values)
    raw = jnp.stack([*(mean_cosine(x, cache.valid) for x in pair), *map(log_norm, pair)], axis=-1)
    held = cache.valid[..., None]
    count = jnp.maximum(jnp.sum(held, axis=1, dtype=jnp.float32), 1.0)
    mean = jnp.sum(jnp.where(held, raw, 0.0), axis=1) / count
    centred = jnp.where(held, raw - mean[:, None], 0.0)
    level = levels_of(mean, jnp.sum(centred * centred, axis=1), count)
    return centred / level[:, None, 1], level


def levels_of(
    mean: Float[Array, "head 4"], squares: Float[Array, "head 4"], count: Float[Array, "head 1"]
) -> Float[Array, "head 2 4"]:
    """Mean and deviation of a head's tokens, from sums of squared deviations and the number of tokens."""
    return jnp.stack([mean, jnp.sqrt(squares / jnp.maximum(count, 1.0) + 1e-6)], axis=1)


def nothing_read(heads: int, dim: int) -> dict[str, Array]:
    """What `content_of_read` carries before the first token.

    counted: positions below it are in the statistics. directions: sums of unit keys and values. count, mean, squares:
    tokens, and of the four numbers of `content` their mean and summed squared deviation from it.
    """
    zeros = partial(jnp.zeros, dtype=jnp.float32)
    moments = {"count": zeros((heads,)), "mean": zeros((heads, 4)), "squares": zeros((heads, 4))}
    return {"counted": jnp.int32(0), "directions": zeros((2, heads, dim)), **moments}


def content_of_read(
    cache: SlotCache, before: dict[str, Array]
) -> tuple[Float[Array, "head slot 4"], Float[Array, "head 2 4"], dict[str, Array]]:
    """`content`, relative to all tokens that the head has read, its levels, and what to carry on.

    At a first update it is `content`. Later, a token's cosines stay in mean and variance as they were at the update
    after it came, with the directions of then. Moments are merged as by Chan, Golub and LeVeque (1979).
    """
    fresh = (cache.valid & (cache.positions >= before["counted"])).astype(jnp.float32)
    pair = (cache.keys, cache.values)
    units = jnp.stack([unit(x) for x in pair])
    directions = before["directions"] + jnp.einsum("phsd,hs->phd", units, fresh)
    cosines = jnp.einsum("phsd,phd->phs", units, unit(directions))
    raw = jnp.stack([*cosines, *map(log_norm, pair)], axis=-1)
    new = jnp.sum(fresh, axis=1)
    mean = jnp.einsum("hsw,hs->hw", raw, fresh) / jnp.maximum(new, 1.0)[:, None]
    squares = jnp.einsum("hsw,hs->hw", (raw - mean[:, None]) ** 2, fresh)
    count = before["count"] + new
    share = (new / jnp.maximum(count, 1.0))[:, None]
    apart = mean - before["mean"]
    mean = before["mean"] + share * apart
    squares = before["squares"] + squares + apart * apart * share * before["count"][:, None]
    counted = jnp.maximum(before["counted"], jnp.max(jnp.where(cache.valid, cache.positions, -1)) + 1)
    after = {"counted": counted, "directions": directions, "count": count, "mean": mean, "squares": squares}
    level = levels_of(mean, squares, count[:, None])
    relative = (raw - mean[:, None]) / level[:, None, 1]
    return jnp.where(cache.valid[..., None], relative, 0.0), level, after


def near_mean(x: Float[Array, "head slot width"], cache: SlotCache) -> Float[Array, "head slot width"]:
    """Mean over the held tokens at most NEAR positions away, itself included: facts are longer than a token."""
    # empty slots repeat the position before them, so that positions never fall along the slots
    positions = jax.lax.cummax(jnp.where(cache.valid, cache.positions, -1), axis=1)
    counted = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1) * cache.valid[..., None]
    sums = jnp.pad(jnp.cumsum(counted, axis=1), ((0, 0), (1, 0), (0, 0)))

    def head(positions: Array, sums: Array) -> Array:
        first = jnp.searchsorted(positions, positions - NEAR, side="left")
        last = jnp.searchsorted(positions, positions + NEAR, side="right")
        total = sums[last] - sums[first]
        return total[:, :-1] / jnp.maximum(total[:, -1:], 1.0)

    return jax.vmap(head)(positions, sums)
