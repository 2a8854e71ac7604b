"""Feature blocks against their definitions, in streaming use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from namm.cache import CacheShape, SlotCache
from namm.config import MemoryConfig
from namm.contract import Observation, PolicyState
from namm.features import SpectrumConfig, blocks, observe_spectrum, spectrum_slots
from namm.model import NammPolicy, identity_statistics
from tests.oracles import memory as oracle

SLOTS, QUERIES, HEADS = 5, 150, 2


@pytest.mark.parametrize("sizes", [[150], [64, 64, 22], [1] * 150, [7, 16, 33, 40, 54]])
def test_streaming_spectrum_is_the_whole_series_transform(sizes: list[int]) -> None:
    rng = np.random.default_rng()
    series = rng.random((HEADS, SLOTS, QUERIES)).astype(np.float32)
    config = SpectrumConfig()
    state = spectrum_slots(config, CacheShape(HEADS, 1, SLOTS, 4))
    observe = jax.jit(observe_spectrum, static_argnums=0)
    seen = 0
    for size in sizes:
        rows = np.swapaxes(series[:, :, seen : seen + size], 1, 2)
        padded = np.pad(rows, ((0, 0), (0, 3), (0, 0)), constant_values=np.nan)  # rows beyond count may hold anything
        queries = jnp.zeros((HEADS, size + 3, 4))
        state = observe(config, state, Observation(jnp.asarray(padded), queries, jnp.int32(size), jnp.int32(seen)))
        seen += size
    whole = QUERIES // config.hop * config.hop
    for head in range(HEADS):
        np.testing.assert_allclose(state["average"][head], oracle.spectrum(series[head, :, :whole]), atol=1e-5)
    np.testing.assert_array_equal(state["recent"], series[:, :, -config.window :])


def test_all_blocks_against_the_oracle() -> None:
    rng = np.random.default_rng()
    policy = NammPolicy(MemoryConfig(tuple(blocks(SpectrumConfig()))))
    valid = np.array([[True, True, False, True, True], [True, False, False, True, True]])
    positions = np.stack([np.sort(rng.choice(14, 5, replace=False)) for _ in range(2)])
    keys, values = rng.normal(size=(2, 2, 5, 4))
    average, surprisal, recent = rng.random((2, 5, 17)), rng.random((2, 5)), rng.random((2, 5, 32)) ** 8
    mean, variance = rng.random(17), rng.random(17)
    single = [jnp.asarray(x, jnp.float32) for x in (keys, values, average, surprisal, mean, variance)]
    cache = SlotCache(single[0], single[1], jnp.asarray(positions, jnp.int32), jnp.asarray(valid))
    slots = {"average": single[2], "surprisal": single[3], "recent": jnp.asarray(recent, jnp.float32)}
    statistics = {"mean": single[4], "variance": single[5]}
    got = np.asarray(policy.features(statistics, PolicyState(slots, {}), cache)[0])
    own = (recent[..., -1], recent.mean(-1))
    attention = [*own, *(oracle.over_heads(x, positions, valid) for x in own)]
    for head in range(2):
        held = valid[head]
        vectors = (keys[head, held], values[head, held])
        content = [*map(oracle.mean_cosine, vectors), *(np.log(np.linalg.norm(x, axis=1)) for x in vectors)]
        levels = [f(x) for f in (np.mean, lambda x: np.sqrt(np.var(x) + 1e-6)) for x in content[1:]]
        content = [oracle.standardised(x) for x in content]
        ages = (positions[head, held].max() - positions[head, held]).astype(np.float64)
        columns = [
            oracle.recency(ages),
            np.stack([np.exp(-ages / scale) for scale in (4, 16, 64, 256)], axis=1),
            (average[head, held] - mean) / np.sqrt(variance),
            np.stack([oracle.standardised(np.log(x[head, held] + 1e-6)) for x in attention], axis=1),
            np.stack(content, axis=1),
            np.broadcast_to(levels, (held.sum(), 6)),
            oracle.near_mean(np.stack(content, axis=1), positions[head, held]),
            oracle.standardised(surprisal[head, held])[:, None],
        ]
        np.testing.assert_allclose(got[head, held], np.concatenate(columns, axis=1), atol=2e-3)
    assert np.all(np.isfinite(got))


def test_content_relative_to_all_tokens_read() -> None:
    """Dropped tokens stay in directions and moments; a token's cosines enter them with the directions of its update."""
    rng = np.random.default_rng()
    policy = NammPolicy(MemoryConfig(("norms", "value-cosine", "key-cosine", "levels"), relative="read"))
    state = policy.init(CacheShape(HEADS, 1, 30, 4), jax.random.key(0))
    keys, values = rng.normal(size=(2, HEADS, 30, 4)) + rng.normal(size=(2, HEADS, 1, 4))
    read, held, raw = 0, np.zeros((HEADS, 30), bool), [np.zeros((HEADS, 0, 4))]
    for count in (14, 9, 7):
        held[:, read : read + count] = True
        read += count
        pair = [jnp.asarray(np.where(held[..., None], x, 7.0), jnp.float32) for x in (keys, values)]
        positions = jnp.broadcast_to(jnp.arange(30, dtype=jnp.int32), (HEADS, 30))
        got, state = policy.features({}, state, SlotCache(*pair, positions, jnp.asarray(held)))
        units = [x[:, :read] / np.linalg.norm(x[:, :read], axis=2, keepdims=True) for x in (keys, values)]
        means = [x.sum(1) / np.linalg.norm(x.sum(1), axis=1, keepdims=True) for x in units]
        cosines = [np.einsum("hsd,hd->hs", x, mean) for x, mean in zip(units, means, strict=True)]
        norms = [np.log(np.linalg.norm(x[:, :read], axis=2)) for x in (keys, values)]
        now = np.stack([*cosines, *norms], axis=2)
        raw.append(now[:, read - count :])
        counted = np.concatenate(raw, axis=1)
        expected = (now - counted.mean(1, keepdims=True)) / np.sqrt(counted.var(1) + 1e-6)[:, None]
        order = [2, 3, 1, 0]
        for head in range(HEADS):
            known = held[head, :read]
            np.testing.assert_allclose(got[head, :read, :4][known], expected[head][known][:, order], atol=1e-4)
            levels = np.stack([counted[head].mean(0), np.sqrt(counted[head].var(0) + 1e-6)])[:, 1:].reshape(-1)
            np.testing.assert_allclose(got[head, :, 4:], np.broadcast_to(levels, (30, 6)), atol=1e-4)
        assert np.all(np.isfinite(got))
        held &= rng.random((HEADS, 30)) < 0.5


def test_without_the_spectrum_the_newest_attention_alone_is_carried() -> None:
    policy, rng = NammPolicy(MemoryConfig(("latest", "norms"))), np.random.default_rng()
    state = policy.init(CacheShape(HEADS, 1, SLOTS, 4), jax.random.key(0))
    assert {name: x.shape for name, x in state.slots.items()} == {"recent": (HEADS, SLOTS, 32)}
    series = rng.random((HEADS, 50, SLOTS)).astype(np.float32)
    for begin, end in ((0, 7), (7, 50)):
        rows, queries = jnp.asarray(series[:, begin:end]), jnp.zeros((HEADS, end - begin, 4))
        state = policy.observe(state, Observation(rows, queries, jnp.int32(end - begin), jnp.int32(begin)))
    np.testing.assert_array_equal(state.slots["recent"], np.swapaxes(series[:, -32:], 1, 2))


def test_carried_state_is_at_most_a_kilobyte_a_slot() -> None:
    state = NammPolicy(MemoryConfig()).init(CacheShape(1, 1, 1, 4), jax.random.key(0))
    assert sum(x.size * x.dtype.itemsize for x in state.slots.values()) == 4 * (17 + 32)


def test_statistics_that_change_nothing() -> None:
    statistics = identity_statistics(SpectrumConfig())
    assert float(statistics["mean"].sum()) == 0 and float(statistics["variance"].min()) == 1


@pytest.mark.parametrize(("window", "hop", "decay"), [(32, 8, 0.9), (32, 0, 0.9), (32, 16, 1.0)])
def test_bad_spectrum(window: int, hop: int, decay: float) -> None:
    with pytest.raises(ValueError, match=r"spectrum\."):
        SpectrumConfig(window, hop, decay)
