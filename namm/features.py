"""Named feature blocks per slot: what a memory sees of a cached token.

The attention spectrum is computed in a streaming way: a slot carries the attention of its last `window` queries and the
decayed average of its short-time Fourier magnitudes, never the columns of a whole update window. Axes: head, slot,
query, frame, freq; `freq` = window/2 + 1 magnitudes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from namm.cache import CacheShape, SlotCache
from namm.content import near_mean, standardise
from namm.contract import Observation

RECENCY_WIDTH = 8
LEAST = 1e-6  # attention below it is as good as none
RECENCY_BASE = 50000.0  # wavelength base of the age embedding
AGES = (4.0, 16.0, 64.0, 256.0)  # tokens after which a token is no longer new, on four scales


@dataclass(frozen=True)
class SpectrumConfig:
    """Short-time Fourier transform of a slot's attention series, averaged over time.

    window: samples of one frame (periodic Hann). hop: samples between frames, half a window. decay: weight of the old
    average per query; one frame weighs decay**hop (arXiv 2410.13166, appendix A).
    """

    window: int = 32
    hop: int = 16
    decay: float = 0.99

    def __post_init__(self) -> None:
        if self.hop < 1 or self.window != 2 * self.hop:
            raise ValueError(
                f"spectrum.window is {self.window} and spectrum.hop is {self.hop}; "
                "the streaming transform needs window = 2 * hop"
            )
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"spectrum.decay is {self.decay}; expected 0 <= decay < 1")

    @property
    def bins(self) -> int:
        return self.window // 2 + 1


def fourier_basis(config: SpectrumConfig) -> Float[np.ndarray, "window two_freq"]:
    """Hann-weighted real and imaginary parts of the one-sided transform of one frame: |x @ basis| by hypot."""
    time = np.arange(config.window)
    hann = 0.5 * (1.0 - np.cos(2.0 * np.pi * time / config.window))
    angle = 2.0 * np.pi * np.outer(time, np.arange(config.bins)) / config.window
    return np.concatenate([hann[:, None] * np.cos(angle), -hann[:, None] * np.sin(angle)], axis=1)


def spectrum_slots(config: SpectrumConfig, shape: CacheShape, averaged: bool = True) -> dict[str, Array]:
    """Per slot: `recent`, the attention of the last `window` queries, oldest first, and, if `averaged`, `average`."""
    widths = {"recent": config.window, **({"average": config.bins} if averaged else {})}
    return {name: jnp.zeros((shape.heads, shape.slots, width), jnp.float32) for name, width in widths.items()}


def frame_magnitudes(
    config: SpectrumConfig, series: Float[Array, "head slot time"]
) -> Float[Array, "head slot frame freq"]:
    """Magnitudes of the frames that start every `hop` samples; time = hop * (frame + 1)."""
    basis = fourier_basis(config).astype(np.float32)
    halves = np.concatenate([basis[: config.hop], basis[config.hop :]], axis=1)  # one product serves both overlaps
    blocks = series.reshape(*series.shape[:2], -1, config.hop) @ halves
    old, new = jnp.split(blocks, 2, axis=-1)
    real, imaginary = jnp.split(old[:, :, :-1] + new[:, :, 1:], 2, axis=-1)
    return jnp.sqrt(real * real + imaginary * imaginary)


def observe_spectrum(
    config: SpectrumConfig, slots: dict[str, Array], observation: Observation
) -> dict[str, Array]:
    """Take in a chunk of queries: every frame that completes enters the average, the last `window` samples are kept.

    Queries that do not fill a hop wait in `recent`, so any chunking of the same queries gives the same average. Slots
    that carry no average keep the samples alone.
    """
    queries = observation.attention.shape[1]
    rows = jnp.swapaxes(observation.attention.astype(jnp.float32), 1, 2)
    samples = jnp.concatenate([slots["recent"], rows], axis=2)
    recent = jax.lax.dynamic_slice_in_dim(samples, observation.count, config.window, axis=2)
    if "average" not in slots:
        return {"recent": recent}
    pending = observation.seen % config.hop
    most = (config.hop - 1 + queries) // config.hop
    average = slots["average"]
    if most:
        start = config.window - config.hop - pending
        padded = jnp.pad(samples, ((0, 0), (0, 0), (0, config.hop)))  # a slice may reach past the chunk, unused
        series = jax.lax.dynamic_slice_in_dim(padded, start, config.hop * (most + 1), axis=2)
        complete = (pending + observation.count) // config.hop
        age = complete - 1 - jnp.arange(most)
        decay = jnp.float32(config.decay**config.hop)
        weights = jnp.where(age >= 0, (1.0 - decay) * decay ** jnp.maximum(age, 0), 0.0)
        magnitudes = frame_magnitudes(config, series)
        # rows past `count` may hold anything: their frames are left out, not multiplied by zero
        magnitudes = jnp.where(age[:, None] >= 0, magnitudes, 0.0)
        average = decay**complete * average + jnp.einsum("hsfb,f->hsb", magnitudes, weights)
    return {"average": average, "recent": recent}


def ages(positions: Int[Array, "head slot"], valid: Bool[Array, "head slot"]) -> Float[Array, "head slot"]:
    """Tokens between a token and the newest one of its head; of occupied slots."""
    newest = jnp.max(jnp.where(valid, positions, -1), axis=1, keepdims=True)
    return (newest - positions).astype(jnp.float32)


def recency(positions: Int[Array, "head slot"], valid: Bool[Array, "head slot"]) -> Float[Array, "head slot 8"]:
    """Sines and cosines of a token's age behind the newest token of its head, in tokens."""
    rates = RECENCY_BASE ** (-np.arange(RECENCY_WIDTH // 2, dtype=np.float32) / (RECENCY_WIDTH // 2))
    angle = ages(positions, valid)[..., None] * rates
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def newness(positions: Int[Array, "head slot"], valid: Bool[Array, "head slot"]) -> Float[Array, "head slot 4"]:
    """exp(-age / scale) on four scales: 1 for the newest token, 0 for all that is long past, whatever the length."""
    age = jnp.where(valid, ages(positions, valid), 0.0)
    return jnp.exp(-age[..., None] / jnp.asarray(AGES, jnp.float32))


def over_heads(values: Float[Array, "head slot"], cache: SlotCache) -> Float[Array, "head slot"]:
    """Mean over all heads of a layer, matched by position; a head that does not hold a token adds nothing."""
    heads, slots = cache.positions.shape
    tokens = jnp.where(cache.valid, cache.positions, -1).reshape(-1)
    _, token = jnp.unique(tokens, return_inverse=True, size=heads * slots)
    held = jnp.where(cache.valid, values, 0.0).reshape(-1)
    total = jax.ops.segment_sum(held, token.reshape(-1), heads * slots)
    return total[token].reshape(heads, slots) / heads


def latest(recent: Float[Array, "head slot query"], cache: SlotCache) -> Float[Array, "head slot 4"]:
    """Log attention from the newest query and from the last `window` of them, of this head and of the layer's heads.

    What TOVA (arXiv 2401.06104) and SnapKV (arXiv 2404.14469) rank by, each relative to the head's other tokens.
    """
    own = jnp.stack([recent[..., -1], jnp.mean(recent, axis=-1)])
    raw = jnp.concatenate([own, jax.vmap(over_heads, in_axes=(0, None))(own, cache)])
    return jnp.stack([standardise(x, cache.valid) for x in jnp.log(raw + LEAST)], axis=-1)


def levels(known: Float[Array, "head 2 4"], cache: SlotCache) -> Float[Array, "head slot 6"]:
    """Mean, then deviation of a head's value cosines and log norms, at each of its slots.

    Not of key cosines: RoPE turns keys apart as a text grows. On SmolLM2 they are 5.8 times as far from those of the
    same text at a quarter of the length, 1,024 tokens, as code is from prose (median over heads), the others 0.6 times.
    """
    each = known[:, :, 1:].reshape(known.shape[0], 1, -1)
    return jnp.broadcast_to(each, (*cache.valid.shape, each.shape[-1]))


@dataclass(frozen=True)
class Block:
    """A named group of features: its width, what the host must provide, and how it is computed from the slots.

    Of the slots' arrays, `content` and the heads' `levels` are worked out from the cache, the others are what the
    memory carries.
    """

    width: int
    needs: frozenset[str]
    compute: Callable[[dict[str, Array], SlotCache], Float[Array, "head slot width"]]


def blocks(spectrum: SpectrumConfig) -> dict[str, Block]:
    """All feature blocks by name. Spectrum values are raw here; the memory normalises them by frozen statistics."""
    nothing: frozenset[str] = frozenset()
    return {
        "recency": Block(RECENCY_WIDTH, nothing, lambda slots, cache: recency(cache.positions, cache.valid)),
        "newness": Block(len(AGES), nothing, lambda slots, cache: newness(cache.positions, cache.valid)),
        "spectrum": Block(spectrum.bins, frozenset({"attention"}), lambda slots, cache: slots["average"]),
        "latest": Block(4, frozenset({"attention"}), lambda slots, cache: latest(slots["recent"], cache)),
        "key-cosine": Block(1, nothing, lambda slots, cache: slots["content"][..., :1]),
        "value-cosine": Block(1, nothing, lambda slots, cache: slots["content"][..., 1:2]),
        "norms": Block(2, nothing, lambda slots, cache: slots["content"][..., 2:]),
        "levels": Block(6, nothing, lambda slots, cache: levels(slots["levels"], cache)),
        "near": Block(4, nothing, lambda slots, cache: near_mean(slots["content"], cache)),
        "surprisal": Block(
            1, frozenset({"surprisal"}), lambda slots, cache: standardise(slots["surprisal"], cache.valid)[..., None]
        ),
    }
