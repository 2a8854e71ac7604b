"""Scorers: a feature matrix of one head's slots to one score per slot, higher = keep. Float32 throughout."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

QUERY_BLOCK = 128  # longer sequences are attended in blocks of this many slots
UNROLLED_BLOCKS = 16  # up to this many blocks are written out, more are looped over


def _attend(
    q: Float[Array, "slot dim"], k: Float[Array, "slot dim"], v: Float[Array, "slot dim"], valid: Bool[Array, " slot"]
) -> Float[Array, "slot dim"]:
    """`backward_attention` block by block of queries: nothing of size slot x slot outlives a block."""
    slots, dim = q.shape
    size = min(QUERY_BLOCK, slots)
    count = -(-slots // size)

    def attend(queries: Array, start: Array | int, first: int) -> Array:
        """Queries at slots start, start + 1, ... over the slots from `first` on, all that they may see."""
        logits = queries @ k[first:].T / np.sqrt(dim)
        allowed = (jnp.arange(first, slots) >= (start + jnp.arange(len(queries)))[:, None]) & valid[first:]
        logits = jnp.where(allowed, logits, jnp.finfo(jnp.float32).min)
        return jax.nn.softmax(logits, axis=-1) @ v[first:]

    if count <= UNROLLED_BLOCKS:  # a block skips the older slots, nearly half of the work
        starts = range(0, slots, size)
        return jnp.concatenate([attend(q[start : start + size], start, start) for start in starts])
    padded = jnp.pad(q, ((0, count * size - slots), (0, 0))).reshape(count, size, dim)
    out = jax.lax.map(lambda block: attend(block[0], block[1], 0), (padded, jnp.arange(count) * size))
    return out.reshape(-1, dim)[:slots]


_attend_heads = jax.custom_batching.custom_vmap(_attend)


@_attend_heads.def_vmap
def _over_heads(size: int, batched: list[bool], *inputs: Array) -> tuple[Array, bool]:
    """A CPU takes heads, rows and candidates one by one: its caches hold a block of one head, not those of all."""
    heads = [x if whole else jnp.broadcast_to(x, (size, *x.shape)) for x, whole in zip(inputs, batched, strict=True)]

    def one_by_one(*heads: Array) -> Array:
        return jax.lax.map(lambda head: _attend_heads(*head), heads)

    return jax.lax.platform_dependent(*heads, cpu=one_by_one, default=jax.vmap(_attend)), True


@jax.custom_jvp
def backward_attention(
    q: Float[Array, "slot dim"], k: Float[Array, "slot dim"], v: Float[Array, "slot dim"], valid: Bool[Array, " slot"]
) -> Float[Array, "slot dim"]:
    """Softmax attention of each slot over itself and NEWER valid slots (larger index); scale 1/sqrt(dim)."""
    return _attend_heads(q, k, v, valid)


@backward_attention.defjvp
def _derivative(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    return jax.jvp(_attend, primals, tangents)  # `custom_vmap` has no derivative of its own


class BackwardAttention(nn.Module):
    """BAM (arXiv 2410.13166, section 3.3): one head of backward-masked attention that scales and shifts the features.

    [slot, feature] -> [slot]. 4172 parameters at 25 features and hidden = 32. Zero parameters give the score bias.
    """

    hidden: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "slot feature"], valid: Bool[Array, " slot"]) -> Float[Array, " slot"]:
        zeros = nn.initializers.zeros
        width = x.shape[-1]
        q, k, v = jnp.split(nn.Dense(3 * self.hidden, kernel_init=zeros, name="attention_in")(x), 3, axis=-1)
        y = nn.Dense(2 * width, kernel_init=zeros, name="attention_out")(backward_attention(q, k, v, valid))
        shift, scale = jnp.split(y, 2, axis=-1)
        return nn.Dense(1, kernel_init=zeros, name="score")(x * (1.0 + scale) + shift)[..., 0]


class FeatureScorer(nn.Module):
    """Scores each slot by itself: linear (hidden = 0) or with one hidden layer. [slot, feature] -> [slot]."""

    hidden: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "slot feature"], valid: Bool[Array, " slot"]) -> Float[Array, " slot"]:
        del valid  # no slot looks at another
        zeros = nn.initializers.zeros
        score = nn.Dense(1, kernel_init=zeros, name="score")(x)[..., 0]
        if self.hidden:
            inner = nn.tanh(nn.Dense(self.hidden, kernel_init=zeros, name="inner")(x))
            score = score + nn.Dense(1, use_bias=False, kernel_init=zeros, name="outer")(inner)[..., 0]
        return score


ScorerName = Literal["bam", "linear", "mlp"]


def make_scorer(name: ScorerName, hidden: int) -> nn.Module:
    """The Flax module of a scorer; `hidden` is BAM's head size or the MLP's width."""
    if name == "bam":
        return BackwardAttention(hidden)
    return FeatureScorer(hidden if name == "mlp" else 0)


ORIGINAL_LAYOUT = (
    ("attention_in", "kernel"),
    ("attention_in", "bias"),
    ("attention_out", "kernel"),
    ("attention_out", "bias"),
    ("score", "kernel"),
    ("score", "bias"),
)


def from_flat(flat: Float[np.ndarray, " n"], like: dict) -> dict:
    """BAM parameters from the original's flat vector (weights row-major, input by output, layers in forward order)."""
    sizes = [like["params"][layer][kind].shape for layer, kind in ORIGINAL_LAYOUT]
    expected = sum(int(np.prod(size)) for size in sizes)
    if flat.shape != (expected,):
        raise ValueError(f"flat BAM parameters have shape {flat.shape}; expected ({expected},) for this feature set")
    pieces = np.split(flat, np.cumsum([int(np.prod(size)) for size in sizes])[:-1])
    params: dict = {}
    for (layer, kind), piece, size in zip(ORIGINAL_LAYOUT, pieces, sizes, strict=True):
        params.setdefault(layer, {})[kind] = jnp.asarray(piece.reshape(size))
    return {"params": params}
