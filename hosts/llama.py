"""The Llama forward in JAX: pure functions over the parameter pytree of `hosts.weights`. No cache lives here.

Layers are stacked on a leading axis and scanned; matrices are (in, out). Norms, RoPE and softmax run in float32
whatever the parameters' dtype; matrix products run in that of their matrix and accumulate in float32, activations and
caches are kept in the embedding's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hosts.spec import HostSpec, RopeSpec

Params = dict[str, Any]
Attend = Callable[[Array, Array, Array], tuple[Array, Any]]


def rope_frequencies(spec: HostSpec, length: int | Int[Array, ""]) -> tuple[Float[Array, " half"], float]:
    """Inverse frequencies (radians per position) and the scale of cos and sin.

    `length` is the number of positions in use, the largest position plus one; only the `dynamic` rule reads it.
    Sources: RoPE (Su et al. 2021, eq. 15); linear (Chen et al. 2023); NTK and YaRN (Peng et al. 2023, section 3);
    llama3 (Llama 3.1 release). Computed in float64 up to the part that depends on a traced length.
    """
    rope, exponents = spec.rope, np.arange(0, spec.head_dim, 2) / spec.head_dim
    frequencies = rope.theta**-exponents
    stretch = spec.head_dim / (spec.head_dim - 2) if rope.kind in ("ntk", "dynamic") else 1.0
    if rope.kind == "linear":
        frequencies = frequencies / rope.factor
    elif rope.kind == "ntk":
        frequencies = frequencies * (rope.alpha * rope.factor - (rope.alpha - 1)) ** (-stretch * exponents)
    elif rope.kind == "llama3":
        frequencies = llama3_frequencies(rope, frequencies)
    elif rope.kind == "yarn":
        return jnp.asarray(_yarn(rope, frequencies, spec.head_dim), jnp.float32), _yarn_scale(rope)
    elif rope.kind == "dynamic":
        assert rope.original_max_positions
        used = jnp.maximum(jnp.asarray(length, jnp.float32) / rope.original_max_positions, 1)
        growth = rope.factor * used - (rope.factor - 1)
        return jnp.asarray(frequencies, jnp.float32) * growth ** jnp.asarray(-stretch * exponents, jnp.float32), 1.0
    return jnp.asarray(frequencies, jnp.float32), 1.0


def llama3_frequencies(rope: RopeSpec, frequencies: np.ndarray) -> np.ndarray:
    """Long wavelengths divided by `factor`, short ones kept, a linear blend (in rotations) between."""
    assert rope.low_freq_factor and rope.high_freq_factor and rope.original_max_positions
    rotations = rope.original_max_positions * frequencies / (2 * math.pi)
    keep = np.clip((rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0, 1)
    return frequencies * (keep + (1 - keep) / rope.factor)


def _yarn(rope: RopeSpec, frequencies: np.ndarray, dim: int) -> np.ndarray:
    """Frequencies above `beta_fast` rotations kept, below `beta_slow` divided by `factor`, a ramp between."""
    original = rope.original_max_positions
    assert original

    def index(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = index(rope.beta_fast), index(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low or 0.001  # an empty ramp is a step
    interpolate = np.clip((np.arange(dim // 2) - low) / width, 0, 1)
    return frequencies * (1 - interpolate + interpolate / rope.factor)


def _yarn_scale(rope: RopeSpec) -> float:
    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return mscale(rope.mscale) / mscale(rope.mscale_all_dim)
    return mscale(1.0)


def rotate(
    x: Float[Array, "*batch head query dim"],
    positions: Int[Array, "*axes query"],
    frequencies: Float[Array, " half"],
    scale: float = 1.0,
) -> Float[Array, "*batch head query dim"]:
    """Rotate queries or keys by their positions, in the half-split convention (component i pairs with i + dim/2).

    `positions` is [*batch, query], shared by the heads, or [*batch, head, query].
    """
    if positions.ndim == x.ndim - 2:
        positions = jnp.expand_dims(positions, -2)
    elif positions.ndim != x.ndim - 1:
        raise ValueError(f"positions: got shape {positions.shape}, expected [*batch, (head,) query] of {x.shape}")
    angles = positions[..., None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles) * scale, jnp.sin(angles) * scale
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def embed(params: Params, tokens: Int[Array, "*batch query"]) -> Float[Array, "*batch query hidden"]:
    """Token embeddings in the parameters' dtype."""
    return params["embedding"][tokens]


def block(
    layer: Params, spec: HostSpec, hidden: Float[Array, "*batch query hidden"], attend: Attend
) -> tuple[Float[Array, "*batch query hidden"], Any]:
    """One transformer layer. `layer` is one slice of `params["layers"]`.

    `attend(q, k, v)` takes unrotated q [*batch, query_heads, query, dim] and k, v [*batch, kv_heads, query, dim],
    rotates and caches as it likes, and returns ([*batch, query_heads, query, dim], aux); aux is handed through.
    """
    x = _norm(hidden, layer["attention_norm"], spec)
    q, k, v = (_heads(_dense(x, layer, name), spec.head_dim) for name in ("query", "key", "value"))
    attended, aux = attend(q, k, v)
    attended = jnp.swapaxes(attended, -3, -2).reshape(*hidden.shape[:-1], spec.query_heads * spec.head_dim)
    hidden = hidden + _dense(attended.astype(hidden.dtype), layer, "output")
    x = _norm(hidden, layer["mlp_norm"], spec)
    activated = jax.nn.silu(_dense(x, layer, "gate")) * _dense(x, layer, "up")
    return hidden + _dense(activated, layer, "down"), aux


def _norm(x: Array, weight: Array, spec: HostSpec) -> Array:
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + spec.norm_epsilon)
    return weight * wide.astype(x.dtype)


def _dense(x: Array, layer: Params, name: str) -> Array:
    product = jnp.matmul(x.astype(layer[name].dtype), layer[name], preferred_element_type=jnp.float32)
    if (bias := layer.get(f"{name}_bias")) is not None:
        product = product + bias
    return product.astype(x.dtype)


def _heads(x: Array, dim: int) -> Array:
    return jnp.swapaxes(x.reshape(*x.shape[:-1], -1, dim), -3, -2)


def logits(params: Params, spec: HostSpec, hidden: Float[Array, "*batch hidden"]) -> Float[Array, "*batch vocab"]:
    """Final norm and language-model head; float32."""
    x = _norm(hidden, params["norm"], spec)
    if "head" in params:
        return jnp.matmul(x, params["head"], preferred_element_type=jnp.float32)
    return jnp.einsum("...h,vh->...v", x, params["embedding"], preferred_element_type=jnp.float32)


def forward(
    params: Params,
    spec: HostSpec,
    tokens: Int[Array, "batch query"],
    positions: Int[Array, "batch query"] | None = None,
    mask: Bool[Array, "batch query"] | None = None,
) -> Float[Array, "batch query vocab"]:
    """Plain causal forward without a cache; float32 logits.

    `mask` is True at real tokens and False at padding, which no token attends to; `positions` default to the number of
    real tokens before each one.
    """
    batch, query = tokens.shape
    valid = jnp.ones((batch, query), bool) if mask is None else mask
    if positions is None:
        positions = jnp.maximum(jnp.cumsum(valid, axis=-1) - 1, 0)
    frequencies, scale = rope_frequencies(spec, jnp.max(positions) + 1)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, None]:
        q, k = (rotate(x, positions, frequencies, scale) for x in (q, k))
        return jax.lax.platform_dependent(q, k, v, valid, cpu=_attention_blocks, default=_attention), None

    hidden, _ = jax.lax.scan(
        lambda hidden, layer: block(layer, spec, hidden, attend), embed(params, tokens), params["layers"]
    )
    return logits(params, spec, hidden)


def _attention(q: Array, k: Array, v: Array, valid: Array) -> Array:
    """Causal attention, all heads at once: one large kernel, as accelerators like it."""
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    causal = jnp.tril(jnp.ones((q.shape[1], q.shape[1]), bool))
    attended = jax.nn.dot_product_attention(q, k, v, mask=(causal & valid[:, None, :])[:, None])
    return jnp.swapaxes(attended, 1, 2)


def _attention_blocks(q: Array, k: Array, v: Array, valid: Array) -> Array:
    """The same, one KV head and one block of queries at a time over the keys up to it: 4 times faster on a CPU."""
    batch, heads, length, dim = q.shape
    block = max(128, -(-length // 16))
    causal = jnp.tril(jnp.ones((length, length), bool))

    def part(q: Array, k: Array, v: Array, mask: Array) -> Array:
        scores = jnp.einsum("gqd,kd->gqk", q, k, preferred_element_type=jnp.float32) / math.sqrt(dim)
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
        weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
        attended = jnp.einsum("gqk,kd->gqd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (attended / jnp.sum(weights, axis=-1, keepdims=True)).astype(v.dtype)

    def head(row: tuple[Array, Array, Array], valid: Array) -> Array:
        q, k, v = row
        parts = []
        for first in range(0, length, block):
            last = min(first + block, length)
            mask = causal[first:last, :last] & valid[:last]
            parts.append(part(q[:, first:last], k[:last], v[:last], mask))
        return jnp.concatenate(parts, axis=1)

    q = q.reshape(batch, k.shape[1], -1, length, dim)
    out = jax.lax.map(lambda row: jax.lax.map(lambda heads: head(heads, row[3]), row[:3]), (q, k, v, valid))
    return out.reshape(batch, heads, length, dim)
