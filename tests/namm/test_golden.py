"""The original's vectors: scores within 1e-4 and every kept index, over three updates of each of three layers."""

from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from namm.cache import CacheShape, SlotCache, empty
from namm.config import MemoryConfig
from namm.contract import Observation, Parameters
from namm.memory import Layout, update
from namm.model import NammPolicy
from namm.network import from_flat
from namm.selection import SelectionConfig, select

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "namm_reference.npz")
WINDOW, KEPT = 64, 64


def by_layer() -> dict[int, list[int]]:
    layers = defaultdict(list)
    for i in range(9):
        layers[int(GOLDEN[f"u{i}_layer"])].append(i)
    return layers


@pytest.mark.parametrize("chunk", [64, 16, 24, 1])
def test_golden(chunk: int) -> None:
    policy = NammPolicy(MemoryConfig(interval=WINDOW))
    params = Parameters(
        from_flat(GOLDEN["params"], policy.initial_scorer()),
        {"mean": jnp.asarray(GOLDEN["norm_mean"]), "variance": jnp.asarray(GOLDEN["norm_var"])},
    )
    observe = jax.jit(policy.observe)
    layout = Layout(KEPT, WINDOW)
    for updates in by_layer().values():
        shape = CacheShape(heads=2, group=2, slots=layout.slots, dim=4)
        cache, state = empty(shape), policy.init(shape, jax.random.key(0))
        for i in updates:
            attention, new = GOLDEN[f"u{i}_attn"], GOLDEN[f"u{i}_newpos"]
            kept = attention.shape[2] - WINDOW
            slots = np.concatenate([np.arange(kept), KEPT + np.arange(WINDOW)])
            spread = np.zeros((2, WINDOW, layout.slots), np.float32)
            spread[:, :, slots] = attention.reshape(2, 2, WINDOW, -1).mean(1)
            cache = SlotCache(
                cache.keys,
                cache.values,
                cache.positions.at[:, KEPT:].set(jnp.asarray(new, jnp.int32)),
                cache.valid.at[:, KEPT:].set(True),
            )
            for start in range(0, WINDOW, chunk):
                rows = spread[:, start : start + chunk]
                count = rows.shape[1]
                rows = np.pad(rows, ((0, 0), (0, chunk - count), (0, 0)), constant_values=np.nan)
                seen = jnp.int32(new[0] + start)
                queries = jnp.zeros((4, chunk, 4))
                state = observe(state, Observation(jnp.asarray(rows), queries, jnp.int32(count), seen))
            features, _ = policy.features(params.frozen, state, cache)
            np.testing.assert_allclose(features[:, slots], GOLDEN[f"u{i}_feat"], atol=1e-4)
            scores, _ = policy.score(params, state, cache)
            np.testing.assert_allclose(scores[:, slots], GOLDEN[f"u{i}_scores"], atol=1e-4)
            chosen = select(scores, cache.positions, cache.valid, SelectionConfig(), KEPT, KEPT)
            indices = np.asarray(chosen.indices)[:, : GOLDEN[f"u{i}_idx"].shape[1]]
            assert np.all(np.asarray(chosen.keep).sum(1) == GOLDEN[f"u{i}_idx"].shape[1])
            np.testing.assert_array_equal(np.searchsorted(slots, indices), GOLDEN[f"u{i}_idx"])
            state, cache = update(policy, params, state, cache, SelectionConfig(), KEPT, layout)
            positions = np.asarray(cache.positions)[:, : indices.shape[1]]
            np.testing.assert_array_equal(positions, GOLDEN[f"u{i}_pos"])
