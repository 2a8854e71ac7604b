"""Expected attention: what queries still to come will pay to a key, from the distribution of the queries so far."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from namm.cache import CacheShape, SlotCache
from namm.contract import Observation, PolicyState
from namm.policies.base import BasePolicy, masked_softmax, newest, sinks_first, vector_norm, wide


@dataclass(frozen=True)
class ExpectedAttention(BasePolicy):
    """Expected attention of the next `future` queries times the value's norm (arXiv 2510.00636, section 3).

    Queries before RoPE are taken as Gaussian with mean m and covariance C; R is the mean rotation of the next `future`
    positions. Weight of key k: exp(k.Rm / sqrt(d) + k.RCR'k / 2d), normalised over the held keys, mean over the query
    heads of a KV head. Queries and keys of the first `sinks` positions are outliers: both are left out, and these keys
    always kept. The paper's norm is of the value after the output projection, here of the value (as its code has it).

    frequencies: RoPE inverse frequencies of the host (radians per position, dim / 2 of them, half-split convention);
    scale: its scale of cos and sin. The host sets both. State: dim^2 + dim + 1 floats per query head, none per slot.
    """

    name = "expected-attention"
    needs = frozenset({"queries", "rope"})
    frequencies: tuple[float, ...] = ()
    scale: float = 1.0
    future: int = 512
    sinks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(future=1, sinks=0)

    def init(self, shape: CacheShape, key: Array) -> PolicyState:
        if 2 * len(self.frequencies) != shape.dim:
            raise ValueError(
                f"{self.name}: frequencies has {len(self.frequencies)} values; expected half the head size, "
                f"{shape.dim // 2}: the RoPE frequencies of the host. Set them with dataclasses.replace"
            )
        heads = shape.heads * shape.group
        running = {
            "count": jnp.zeros((), jnp.float32),
            "mean": jnp.zeros((heads, shape.dim), jnp.float32),
            "scatter": jnp.zeros((heads, shape.dim, shape.dim), jnp.float32),
        }
        return PolicyState({}, running)

    def observe(self, state: PolicyState, observation: Observation) -> PolicyState:
        """Merge the chunk's count, mean and scatter into the running ones (Chan et al. 1983: no cancellation)."""
        old = state.running
        rows = jnp.arange(observation.queries.shape[1])
        used = (rows < observation.count) & (observation.seen + rows >= self.sinks)
        count = jnp.sum(used).astype(jnp.float32)
        queries = jnp.where(used[:, None], wide(observation.queries), 0.0)
        mean = jnp.sum(queries, axis=1) / jnp.maximum(count, 1.0)
        centred = jnp.where(used[:, None], queries - mean[:, None], 0.0)
        total = old["count"] + count
        shift = mean - old["mean"]
        share = count / jnp.maximum(total, 1.0)
        scatter = old["scatter"] + jnp.einsum("hqi,hqj->hij", centred, centred)
        scatter = scatter + old["count"] * share * shift[:, :, None] * shift[:, None, :]
        return state._replace(running={"count": total, "mean": old["mean"] + share * shift, "scatter": scatter})

    def score(self, params: Any, state: PolicyState, cache: SlotCache) -> tuple[Float[Array, "head slot"], PolicyState]:
        heads, _, dim = cache.keys.shape
        keys = self._rotate_back(cache)
        mean = state.running["mean"].reshape(heads, -1, dim)
        covariance = state.running["scatter"] / jnp.maximum(state.running["count"], 1.0)
        covariance = covariance.reshape(heads, -1, dim, dim)
        linear = jnp.einsum("hsi,hgi->hgs", keys, mean) / math.sqrt(dim)
        turned = jnp.einsum("hsi,hgij->hgsj", keys, covariance)
        quadratic = jnp.sum(turned * keys[:, None], axis=-1) / (2 * dim)
        counted = cache.valid & (cache.positions >= self.sinks)
        expected = jnp.mean(masked_softmax(linear + quadratic, counted[:, None]), axis=1)
        return sinks_first(expected * vector_norm(cache.values), cache, self.sinks), state

    def _rotate_back(self, cache: SlotCache) -> Float[Array, "head slot dim"]:
        """R'k, with R the mean rotation of the `future` positions after the newest token."""
        frequencies = np.asarray(self.frequencies)
        ahead = self.scale * np.exp(1j * np.outer(frequencies, np.arange(1, self.future + 1))).mean(axis=1)
        angle = jnp.max(newest(cache)) * jnp.asarray(frequencies, jnp.float32)
        cos = ahead.real * jnp.cos(angle) - ahead.imag * jnp.sin(angle)
        sin = ahead.real * jnp.sin(angle) + ahead.imag * jnp.cos(angle)
        first, second = jnp.split(wide(cache.keys), 2, axis=-1)
        return jnp.concatenate([first * cos + second * sin, second * cos - first * sin], axis=-1)
