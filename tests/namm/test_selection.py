"""Selection against its rules written out slot by slot."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from namm.selection import SelectionConfig, protect, select, share_out
from tests.oracles import selection as oracle

HEADS, SLOTS = 3, 24


@pytest.fixture
def rng():
    return np.random.default_rng()


def slots(rng, share=0.8):
    """Positions ascending over the valid slots of each head, garbage elsewhere."""
    valid = rng.random((HEADS, SLOTS)) < share
    positions = rng.integers(0, 2 * SLOTS, (HEADS, SLOTS))
    for h in range(HEADS):
        positions[h, valid[h]] = np.sort(rng.choice(2 * SLOTS, valid[h].sum(), replace=False))
    scores = rng.normal(size=(HEADS, SLOTS)).astype(np.float32)
    return scores, positions.astype(np.int32), valid


def kept_slots(selection):
    return [np.asarray(i)[np.asarray(k)].tolist() for i, k in zip(selection.indices, selection.keep, strict=True)]


def check(inputs, config, budget, kept):
    scores, positions, valid = inputs
    expected = oracle.select(
        scores, positions, valid, config.mode, config.threshold, config.recent, config.sinks, budget, kept
    )
    result = select(*map(jnp.asarray, inputs), config, budget, kept)
    assert result.indices.shape == result.keep.shape == (HEADS, kept)
    assert kept_slots(result) == expected
    return expected


@pytest.mark.parametrize("mode", ["faithful", "strict"])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.7, 1e9])
@pytest.mark.parametrize("kept", [5, SLOTS, SLOTS + 9])
def test_every_mode_threshold_and_size(rng, mode, threshold, kept):
    for budget, recent, sinks in itertools.product([1, 7, 100], [1, 4], [0, 3]):
        check(slots(rng), SelectionConfig(mode, threshold, recent, sinks), budget, kept)


def test_faithful_fills_up_heads_that_strict_leaves_short(rng):
    scores, positions, valid = slots(rng, share=2.0)
    scores[0], scores[1:] = 1.0, -1.0
    strict = check((scores, positions, valid), SelectionConfig("strict", 0.0), 100, SLOTS)
    faithful = check((scores, positions, valid), SelectionConfig("faithful", 0.0), 100, SLOTS)
    assert [len(x) for x in strict] == [SLOTS, 1, 1]
    assert [len(x) for x in faithful] == [SLOTS] * HEADS


def test_faithful_takes_no_more_than_a_head_holds(rng):
    scores, positions, valid = slots(rng)
    valid[1] = False
    assert check((scores, positions, valid), SelectionConfig(), 100, SLOTS)[1] == []


def test_ties_keep_the_older_slot(rng):
    scores, positions, valid = slots(rng)
    tied = np.round(scores) + 0.0  # no negative zero, which top_k ranks below zero
    check((tied, positions, valid), SelectionConfig(threshold=None), 6, SLOTS)
    first = check((np.zeros_like(scores), positions, valid), SelectionConfig(threshold=None), 4, SLOTS)
    for h in range(HEADS):
        held = np.flatnonzero(valid[h]).tolist()
        assert first[h] == held[:3] + held[-1:]


@pytest.mark.parametrize("mode", ["faithful", "strict"])
def test_nan_scores_are_the_lowest_and_infinite_ones_stay_below_protected(rng, mode):
    scores, positions, valid = slots(rng)
    odd = rng.random(scores.shape)
    scores[odd < 0.3] = np.nan
    scores[(odd > 0.3) & (odd < 0.5)] = np.inf
    scores[(odd > 0.5) & (odd < 0.6)] = -np.inf
    for threshold, budget in itertools.product([None, 0.0], [2, 9, 100]):
        chosen = check((scores, positions, valid), SelectionConfig(mode, threshold), budget, SLOTS)
        for h in range(HEADS):
            assert np.flatnonzero(valid[h])[-1] in chosen[h]


def test_all_nan_keeps_a_full_budget(rng):
    scores, positions, valid = slots(rng)
    chosen = check((np.full_like(scores, np.nan), positions, valid), SelectionConfig(threshold=None), 5, SLOTS)
    assert [len(x) for x in chosen] == [5] * HEADS


def test_scores_of_empty_slots_are_ignored(rng):
    scores, positions, valid = slots(rng)
    config = SelectionConfig("strict", 0.0)
    before = select(*map(jnp.asarray, (scores, positions, valid)), config, 8, SLOTS)
    for garbage in (np.nan, np.inf, 1e30):
        changed = np.where(valid, scores, garbage).astype(np.float32)
        after = select(*map(jnp.asarray, (changed, positions, valid)), config, 8, SLOTS)
        assert kept_slots(after) == kept_slots(before)


def test_protected_tokens_survive_any_budget_that_holds_them(rng):
    scores, positions, valid = slots(rng)
    config = SelectionConfig("strict", 1e9, recent=3, sinks=4)
    ranked = np.asarray(protect(*map(jnp.asarray, (scores, positions, valid)), config))
    chosen = check((scores, positions, valid), config, config.protected, SLOTS)
    for h in range(HEADS):
        assert chosen[h] == np.flatnonzero(np.isinf(ranked[h]) & valid[h]).tolist()


def test_traced_budget_jit_and_batch_equal_the_plain_call(rng):
    config = SelectionConfig("faithful", -0.5, recent=2, sinks=1)
    batch = [slots(rng) for _ in range(4)]
    stacked = [jnp.asarray(np.stack(x)) for x in zip(*batch, strict=True)]
    budgets = jnp.array([1, 6, 12, 40])
    run = jax.jit(jax.vmap(lambda s, p, v, b: select(s, p, v, config, b, 16)))
    together = run(*stacked, budgets)
    for i, inputs in enumerate(batch):
        alone = select(*map(jnp.asarray, inputs), config, int(budgets[i]), 16)
        np.testing.assert_array_equal(together.indices[i], alone.indices)
        np.testing.assert_array_equal(together.keep[i], alone.keep)


@pytest.mark.parametrize(
    "field", [{"mode": "loose"}, {"recent": 0}, {"sinks": -1}, {"budgets": "row"}, {"budgets": "head"}]
)  # the last beside a threshold
def test_bad_configuration_names_the_field(field):
    config = SelectionConfig()
    for name, value in field.items():  # past the type check that the tests run under
        object.__setattr__(config, name, value)
    with pytest.raises(ValueError, match=f"selection.{next(iter(field))}"):
        config.__post_init__()


def shared_out(shares, budget, most, protected):
    """By bisection for the tokens that a unit of share gets, in float64."""
    room = max(most - protected, 0)
    total, low, high = min(max(budget - protected, 0), room) * len(shares), 0.0, 1e12
    weights = np.exp(np.asarray(shares, np.float64))
    for _ in range(200):
        unit = (low + high) / 2
        low, high = (low, unit) if np.minimum(unit * weights, room).sum() > total else (unit, high)
    return protected + np.minimum(high * weights, room)


def test_shares_of_a_budget(rng):
    """Whole tokens of the exact shares, none above the most, and never more in all than the budget for each."""
    parts, share = (7, 3), jax.jit(share_out, static_argnums=3)
    for scale, budget, most, protected in itertools.product([0.0, 0.3, 3.0], [1, 40, 1000], [20, 160, 4000], [0, 1, 9]):
        shares = (scale * rng.normal(size=parts)).astype(np.float32)
        got = np.asarray(share(shares, jnp.int32(budget), jnp.int32(most), protected))
        exact = shared_out(shares.ravel(), budget, most, protected).reshape(parts)
        assert np.all((got <= exact + 0.01) & (got > exact - 1.01))
        assert got.sum() <= got.size * max(min(budget, most), protected)
        if scale == 0.0:
            assert np.all(got == max(min(budget, most), protected))


def test_layers_share_as_heads_that_are_alike_do(rng):
    shares = rng.normal(size=5).astype(np.float32)
    layers = share_out(jnp.asarray(shares), jnp.int32(100), jnp.int32(300), 1)
    heads = share_out(jnp.asarray(np.repeat(shares[:, None], 3, 1)), jnp.int32(100), jnp.int32(300), 1)
    assert layers.shape == (5, 1)
    np.testing.assert_array_equal(np.broadcast_to(layers, heads.shape), heads)


def test_heads_keep_what_their_own_budgets_say(rng):
    inputs = slots(rng)
    choose = partial(select, *map(jnp.asarray, inputs), SelectionConfig(threshold=None), kept=SLOTS)
    together, apart = [kept_slots(choose(budget=n)) for n in (3, 9)], choose(budget=jnp.asarray([3, 9, 3]))
    assert kept_slots(apart) == [together[0][0], together[1][1], together[0][2]]
