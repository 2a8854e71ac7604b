"""Every training-free policy in streaming use: against the papers' equations, any chunking, jit, batch, garbage."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from namm.cache import CacheShape, append, empty
from namm.contract import NO_PARAMETERS, SIGNALS, Observation, Policy, annotate
from namm.memory import Layout, update
from namm.policies import POLICIES, SparseFixed, WindowVote, load_policy
from namm.selection import SelectionConfig
from tests.oracles.policies import ORACLES, Record
from tests.oracles.selection import select as select_oracle

SHAPE = CacheShape(heads=2, group=2, slots=72, dim=8)
LAYOUT = Layout(kept=24, window=48)
UPDATES, BUDGET = 3, 20
SELECTION = SelectionConfig(threshold=None)
SETTINGS = {
    "snapkv": {"window": 20, "kernel": 5},
    "expected-attention": {"frequencies": (1.0, 0.3, 0.1, 0.01), "future": 16, "scale": 1.1},
    "lagkv": {"lag": 8, "sinks": 2},
    "sirllm": {"decay": 0.8},
    "sirllm-released": {"decay": 0.8},
    "sparse-transformer-strided": {"stride": 7},
    "sparse-transformer-fixed": {"stride": 10, "summary": 3},
}
CASES = {name: replace(load_policy(name), **SETTINGS.get(name, {})) for name in POLICIES}
LONG_VOTE = WindowVote(window=60)  # longer than an update interval
every_policy = pytest.mark.parametrize("policy", CASES.values(), ids=CASES.keys())


@pytest.fixture
def rng():
    return np.random.default_rng()


def record_of(rng) -> Record:
    heads, group, _, dim = SHAPE
    n = UPDATES * LAYOUT.window
    attention = np.tril(rng.exponential(size=(heads, n, n)))
    attention /= attention.sum(axis=2, keepdims=True)
    draw = partial(rng.normal, size=(heads, n, dim))
    queries = rng.normal(rng.normal(size=dim), size=(heads * group, n, dim))
    return Record(attention, queries, draw(), draw() * rng.exponential(size=(heads, n, 1)), rng.exponential(size=n))


def chunk_observation(record, cache, start, count, length):
    """What the host shows for `count` queries in a chunk of `length`; rows past `count` are NaN."""
    rows = np.full((SHAPE.heads, length, SHAPE.slots), np.nan, np.float32)
    queries = np.full((SHAPE.heads * SHAPE.group, length, SHAPE.dim), np.nan, np.float32)
    held, valid = np.asarray(cache.positions), np.asarray(cache.valid)
    for h in range(SHAPE.heads):
        rows[h, :count] = np.where(valid[h], record.attention[h, start : start + count][:, held[h]], 0.0)
    queries[:, :count] = record.queries[:, start : start + count]
    return Observation(jnp.asarray(rows), jnp.asarray(queries), jnp.int32(count), jnp.int32(start))


def read_window(policy, record, state, cache, begin, chunks):
    """Append a window's tokens chunk by chunk and show each chunk's attention. `chunks`: (count, length) pairs."""
    offset = LAYOUT.kept
    for count, length in chunks:
        tokens = np.arange(begin, begin + count)
        keys, values = (jnp.asarray(x[:, tokens], jnp.float32) for x in (record.keys, record.values))
        real = jnp.ones(count, bool)
        cache = append(cache, keys, values, jnp.asarray(tokens, jnp.int32), real, offset)
        state = policy.observe(state, chunk_observation(record, cache, begin, count, length))
        signals = dict.fromkeys(policy.needs & SIGNALS, jnp.asarray(record.surprisal[tokens], jnp.float32))
        state = annotate(state, signals, real, offset)
        begin, offset = begin + count, offset + count
    return state, cache


def run(policy, record, chunks, key, updates=UPDATES):
    """Stream the record; yields (tokens so far, state and cache before the update, scores, cache after it)."""
    state, cache = policy.init(SHAPE, key), empty(SHAPE)
    for index in range(updates):
        state, cache = read_window(policy, record, state, cache, index * LAYOUT.window, chunks)
        scores, _ = policy.score(NO_PARAMETERS, state, cache)
        after, smaller = update(policy, NO_PARAMETERS, state, cache, SELECTION, BUDGET, LAYOUT)
        yield (index + 1) * LAYOUT.window, state, cache, np.asarray(scores), smaller
        state, cache = after, smaller


def held_tokens(cache):
    return [np.asarray(p)[np.asarray(v)].tolist() for p, v in zip(cache.positions, cache.valid, strict=True)]


def valid_scores(scores, cache):
    return np.concatenate([scores[h][np.asarray(cache.valid[h])] for h in range(SHAPE.heads)])


ONE_CHUNK = [(48, 48)]
CHUNKINGS = {"16+32": [(16, 16), (32, 32)], "singly": [(1, 1)] * 48, "padded": [(7, 16), (16, 16), (0, 16), (25, 32)]}


@pytest.mark.parametrize("policy", [*CASES.values(), LONG_VOTE], ids=[*CASES, "snapkv-long"])
def test_scores_follow_the_equations_and_the_best_stay_in_order(rng, policy):
    record = record_of(rng)
    for n, _, cache, scores, smaller in run(policy, record, ONE_CHUNK, jax.random.key(rng.integers(2**31))):
        held = held_tokens(cache)
        got = [scores[h][np.asarray(cache.valid[h])] for h in range(SHAPE.heads)]
        assert all(np.all(g > -np.inf) for g in got)  # and no NaN
        if policy.name in ORACLES:
            expected = ORACLES[policy.name](record, n, held, policy, LAYOUT.window)
            for g, e in zip(got, expected, strict=True):
                np.testing.assert_allclose(g, e, rtol=2e-5, atol=1e-6)
        arrays = (np.asarray(x) for x in (cache.positions, cache.valid))
        kept = select_oracle(scores, *arrays, SELECTION.mode, None, SELECTION.recent, 0, BUDGET, LAYOUT.kept)
        positions = np.asarray(cache.positions)
        assert held_tokens(smaller) == [positions[h][kept[h]].tolist() for h in range(SHAPE.heads)]
        assert not np.any(smaller.valid[:, BUDGET:])


@pytest.mark.parametrize("policy", [*CASES.values(), LONG_VOTE], ids=[*CASES, "snapkv-long"])
def test_any_chunking_of_the_same_queries_gives_the_same_scores(rng, policy):
    record, key = record_of(rng), jax.random.key(rng.integers(2**31))
    whole = [(scores, cache) for _, _, cache, scores, _ in run(policy, record, ONE_CHUNK, key, updates=2)]
    for chunks in CHUNKINGS.values():
        parts = [(scores, cache) for _, _, cache, scores, _ in run(policy, record, chunks, key, updates=2)]
        for (one, cache), (other, other_cache) in zip(whole, parts, strict=True):
            assert held_tokens(cache) == held_tokens(other_cache)
            np.testing.assert_allclose(valid_scores(one, cache), valid_scores(other, other_cache), rtol=1e-5, atol=1e-6)


def last_update(policy, rng, updates=2):
    record, key = record_of(rng), jax.random.key(rng.integers(2**31))
    *_, (_, state, cache, scores, _) = run(policy, record, ONE_CHUNK, key, updates)
    return record, state, cache, scores


@every_policy
def test_jit_equals_no_jit(rng, policy):
    record, state, cache, _ = last_update(policy, rng)
    seen = chunk_observation(record, cache, 2 * LAYOUT.window, 11, 16)

    def step(state, cache, seen):
        state = policy.observe(state, seen)
        scores, state = policy.score(NO_PARAMETERS, state, cache)
        return jnp.where(cache.valid, scores, 0.0), state

    plain, compiled = step(state, cache, seen), jax.jit(step)(state, cache, seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, compiled)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), plain[1]) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


@every_policy
def test_a_batch_equals_each_sequence_alone(rng, policy):
    inputs = []
    for _ in range(3):
        record, state, cache, _ = last_update(policy, rng, updates=1)
        inputs.append((state, cache, chunk_observation(record, cache, LAYOUT.window, int(rng.integers(1, 8)), 8)))

    def step(state, cache, seen):
        return update(policy, NO_PARAMETERS, policy.observe(state, seen), cache, SELECTION, BUDGET, LAYOUT)

    together = jax.vmap(step)(*jax.tree.map(lambda *x: jnp.stack(x), *inputs))
    for i, alone in enumerate(inputs):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            jax.tree.map(lambda x, i=i: x[i], together),
            step(*alone),
        )


@every_policy
def test_empty_slots_cannot_change_a_score(rng, policy):
    _, state, cache, scores = last_update(policy, rng)

    def spoil(leaf, value):
        mask = np.asarray(cache.valid).reshape(cache.valid.shape + (1,) * (leaf.ndim - 2))
        return jnp.where(mask, leaf, jnp.asarray(value, leaf.dtype))

    for number, position in ((np.nan, 10**6), (1e30, 0)):
        dirty_cache = cache._replace(
            keys=spoil(cache.keys, number),
            values=spoil(cache.values, number),
            positions=spoil(cache.positions, position),
        )
        dirty_state = state._replace(slots=jax.tree.map(lambda x, v=number: spoil(x, v), state.slots))
        dirty, _ = policy.score(NO_PARAMETERS, dirty_state, dirty_cache)
        np.testing.assert_array_equal(valid_scores(np.asarray(dirty), cache), valid_scores(scores, cache))


@every_policy
def test_a_policy_keeps_the_contract_and_little_state(policy):
    assert isinstance(policy, Policy)
    assert policy.needs <= {"attention", "queries", "rope"} | SIGNALS
    assert hash(policy) == hash(replace(policy))
    state = policy.init(SHAPE, jax.random.key(0))
    assert all(x.shape[:2] == (SHAPE.heads, SHAPE.slots) for x in state.slots.values())
    assert sum(x.nbytes for x in state.slots.values()) <= 1024 * SHAPE.heads * SHAPE.slots


def test_random_samples_the_history_uniformly(rng):
    policy, updates, runs = load_policy("random"), 4, 300
    budget = 24

    def once(key):
        state, cache = policy.init(SHAPE, key), empty(SHAPE)
        zeros = jnp.zeros((SHAPE.heads, LAYOUT.window, SHAPE.dim))
        for index in range(updates):
            positions = index * LAYOUT.window + jnp.arange(LAYOUT.window)
            cache = append(cache, zeros, zeros, positions, jnp.ones(LAYOUT.window, bool), LAYOUT.kept)
            state, cache = update(policy, NO_PARAMETERS, state, cache, SELECTION, budget, LAYOUT)
        return cache.positions[:, : budget - 1] // LAYOUT.window  # the protected newest token left out

    quarters = np.asarray(jax.vmap(once)(jax.random.split(jax.random.key(rng.integers(2**31)), runs)))
    counts = np.bincount(quarters.ravel(), minlength=updates)
    expected = quarters.size / updates
    assert np.all(np.abs(counts - expected) < 6 * np.sqrt(expected))
    assert np.any(quarters[:, 0] != quarters[:, 1])  # heads draw on their own


def test_logsparse_keeps_every_age_bucket_filled():
    policy, cache = load_policy("logsparse"), empty(SHAPE)
    zeros = jnp.zeros((SHAPE.heads, 8, SHAPE.dim))
    state = policy.init(SHAPE, jax.random.key(0))
    step = jax.jit(lambda state, cache: update(policy, NO_PARAMETERS, state, cache, SELECTION, 12, LAYOUT))
    for begin in range(0, 800, 8):
        cache = append(cache, zeros, zeros, begin + jnp.arange(8), jnp.ones(8, bool), LAYOUT.kept)
        state, cache = step(state, cache)
    ages = 799 - np.array(held_tokens(cache)[0])
    assert set(np.log2(np.maximum(ages, 0.5)).astype(int) * (ages > 0)) == set(range(10))


def test_streaming_llm_keeps_sinks_and_newest(rng):
    policy = load_policy("streaming-llm")
    assert policy.position_rule == "slot"
    for n, *_, smaller in run(policy, record_of(rng), ONE_CHUNK, jax.random.key(0)):
        assert held_tokens(smaller) == [[0, 1, 2, 3, *range(n - BUDGET + 4, n)]] * SHAPE.heads


def test_released_sirllm_asks_for_the_misaligned_surprisal():
    assert load_policy("sirllm").needs == {"surprisal"}
    assert load_policy("sirllm-released").needs == {"repeat-surprisal"}


def test_an_unknown_name_lists_all_names():
    with pytest.raises(ValueError, match="streaming") as error:
        load_policy("streaming")
    assert all(name in str(error.value) for name in POLICIES)


def test_settings_follow_a_name_behind_a_colon():
    assert load_policy("streaming-llm:sinks=0") == replace(load_policy("streaming-llm"), sinks=0)
    expected = replace(load_policy("sirllm"), decay=0.25, position_rule="original")
    assert load_policy("sirllm:decay=0.25,position_rule=original") == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("streaming-llm:sink=0", "no setting 'sink'; expected NAME=VALUE with one of position_rule, sinks"),
        ("streaming-llm:", "no setting ''"),
        ("streaming-llm:sinks=few", "sinks is 'few'; expected int"),
        ("sirllm:decay", "decay is ''; expected float"),
        ("sirllm:decay=2", "decay is 2.0; expected 0 <= decay <= 1"),
        ("expected-attention:scale=2", "no setting 'scale'"),
        ("streaming:sinks=0", "unknown policy 'streaming'"),
    ],
)
def test_settings_that_cannot_be_are_named(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_policy(name)


def test_expected_attention_without_frequencies_says_what_to_set():
    with pytest.raises(ValueError, match="frequencies"):
        load_policy("expected-attention").init(SHAPE, jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("sliding-window", {"position_rule": "absolute"}),
        ("streaming-llm", {"sinks": -1}),
        ("snapkv", {"window": 0}),
        ("snapkv", {"kernel": 4}),
        ("lagkv", {"lag": 1}),
        ("sirllm", {"decay": 1.5}),
        ("expected-attention", {"future": 0}),
        ("sparse-transformer-strided", {"stride": 0}),
        ("sparse-transformer-fixed", {"summary": 0}),
    ],
)
def test_bad_settings_name_the_field(name, fields):
    with pytest.raises(ValueError, match=f"{name}: {next(iter(fields))}"):
        replace(load_policy(name), **fields)


def test_a_summary_longer_than_its_block_is_refused():
    with pytest.raises(ValueError, match="summary is 9"):
        SparseFixed(stride=8, summary=9)
