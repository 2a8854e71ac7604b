"""Attention over slots against its equation in float64, as a CPU does it and as other devices do."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hosts import attention
from namm.cache import SlotCache

BATCH, HEADS, GROUP, LENGTH, DIM = 2, 3, 2, 5, 8
SLOTS = (7, 4)


def caches(rng: np.random.Generator) -> list[SlotCache]:
    found = []
    for slots in SLOTS:
        keys, values = rng.normal(size=(2, BATCH, HEADS, slots, DIM))
        positions = rng.integers(0, 12, (BATCH, HEADS, slots))
        valid = rng.random((BATCH, HEADS, slots)) < 0.7
        found.append(SlotCache(keys, values, positions, valid))
    positions, valid = found[0][2:]
    positions[..., 0], valid[..., 0] = 0, True  # every query sees something
    return found


@pytest.mark.parametrize("platform", ["cpu", "default"])
def test_the_equation(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *inputs, **ways: ways[platform](*inputs))
    rng = np.random.default_rng()
    queries, found = rng.normal(size=(BATCH, HEADS * GROUP, LENGTH, DIM)), caches(rng)
    positions = rng.integers(0, 12, (BATCH, LENGTH))
    keys, values, held, valid = (np.concatenate(part, axis=2) for part in zip(*found, strict=True))
    logits = np.einsum("bhgqd,bhsd->bhgqs", queries.reshape(BATCH, HEADS, GROUP, LENGTH, DIM), keys) / np.sqrt(DIM)
    seen = valid[:, :, None] & (held[:, :, None] <= positions[:, None, :, None])
    powers = np.exp(logits) * seen[:, :, None]
    weights = powers / powers.sum(-1, keepdims=True)
    wanted = np.einsum("bhgqs,bhsd->bhgqd", weights, values).reshape(queries.shape)
    small = [SlotCache(*map(jnp.asarray, cache)) for cache in found]
    run = jax.jit(partial(attention.slot_attention, watch=lambda mean, factor: factor * mean))
    factor = rng.normal(size=BATCH)
    inputs = jnp.asarray(queries, jnp.float32), small, jnp.asarray(positions)
    out, mean = run(*inputs, watched=(jnp.asarray(factor, jnp.float32),))
    np.testing.assert_allclose(out, wanted, atol=1e-5)
    np.testing.assert_allclose(mean, factor[:, None, None, None] * weights.mean(2), atol=1e-6)
