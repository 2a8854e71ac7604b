"""Scorers against float64 loops."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from namm import network
from namm.config import MemoryConfig, ScorerConfig
from namm.contract import Parameters, layer_parameters
from namm.model import NammPolicy
from namm.network import QUERY_BLOCK, UNROLLED_BLOCKS, from_flat
from tests.oracles.memory import backward_attention


@pytest.mark.parametrize("slots", [1, 37, QUERY_BLOCK, 2 * QUERY_BLOCK + 19, QUERY_BLOCK * UNROLLED_BLOCKS + 3])
def test_bam_against_the_oracle_in_blocks_or_not(slots: int) -> None:
    rng = np.random.default_rng()
    policy = NammPolicy(MemoryConfig())
    params = from_flat(rng.normal(size=4172).astype(np.float32) * 0.2, policy.initial_scorer())
    features = rng.normal(size=(1, slots, 25)).astype(np.float32)
    valid = rng.random((1, slots)) < 0.7
    valid[0, -1] = True
    got = policy.apply(params, jnp.asarray(features), jnp.asarray(valid))[0]
    expected = backward_attention(params, features[0, valid[0]].astype(np.float64))
    np.testing.assert_allclose(np.asarray(got)[valid[0]], expected, atol=1e-3, rtol=1e-4)


def test_heads_rows_and_candidates_score_as_each_does_alone() -> None:
    """Under `vmap` a CPU attends them one by one."""
    rng = np.random.default_rng()
    policy = NammPolicy(MemoryConfig())
    flat = rng.normal(size=(2, 4172)).astype(np.float32) * np.float32(0.2)  # two candidates
    params = jax.tree.map(lambda *xs: jnp.stack(xs), *(from_flat(one, policy.initial_scorer()) for one in flat))
    features = jnp.asarray(rng.normal(size=(3, 2, QUERY_BLOCK + 5, 25)), jnp.float32)  # three rows of two heads
    valid = jnp.asarray(rng.random(features.shape[:-1]) < 0.7)
    over_rows = jax.vmap(policy.apply, in_axes=(None, 0, 0))
    got = jax.jit(jax.vmap(over_rows, in_axes=(0, None, None)))(params, features, valid)
    for place in np.ndindex(2, 3, 2):
        own = jax.tree.map(lambda x: x[place[0]], params)  # noqa: B023 (used at once)
        alone = policy.apply(own, features[place[1:]][None], valid[place[1:]][None])[0]
        np.testing.assert_allclose(got[place], alone, atol=1e-4)


def test_backward_attention_has_the_derivatives_of_its_equation() -> None:
    rng = np.random.default_rng()
    slots = QUERY_BLOCK + 5
    q, k, v = jnp.asarray(rng.normal(size=(3, 2, slots, 4)), jnp.float32)  # of two heads
    valid = jnp.asarray(rng.random((2, slots)) < 0.7).at[:, -1].set(True)

    def equation(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array) -> jax.Array:
        seen = jnp.triu(jnp.ones((slots, slots), bool)) & valid
        return jax.nn.softmax(jnp.where(seen, q @ k.T / 2, -1e30)) @ v

    def slopes(attend: Callable[..., jax.Array]) -> tuple[jax.Array, ...]:
        return jax.grad(lambda *x: jnp.sum(jnp.sin(jax.vmap(attend)(*x, valid))), argnums=(0, 1, 2))(q, k, v)

    for got, expected in zip(slopes(network.backward_attention), slopes(equation), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_default_scorer_has_4172_parameters() -> None:
    scorer = NammPolicy(MemoryConfig()).initial_scorer()
    assert sum(x.size for x in jax.tree.leaves(scorer)) == 4172


@pytest.mark.parametrize("kind", ["bam", "linear", "mlp"])
def test_every_head_has_its_own_set_of_parameters(kind) -> None:
    """Each head of each layer scores as a memory with that one set would."""
    rng = np.random.default_rng()
    single = NammPolicy(MemoryConfig(scorer=ScorerConfig(kind, 4)))
    many = NammPolicy(MemoryConfig(scorer=ScorerConfig(kind, 4, sets=(3, 2))))
    assert many.layered and not single.layered
    scorer = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), many.initial_scorer())
    features = jnp.asarray(rng.normal(size=(2, 9, 25)), jnp.float32)
    valid = jnp.asarray(rng.random((2, 9)) < 0.8)
    params = layer_parameters(many, Parameters(scorer, {}), 2)
    got = many.apply(params.evolved, features, valid)
    for head in range(2):
        own = jax.tree.map(lambda x: x[2, head], scorer)  # noqa: B023 (used at once)
        alone = single.apply(own, features[head, None], valid[head, None])[0]
        np.testing.assert_allclose(got[head], alone, atol=1e-5)


@pytest.mark.parametrize("size", [(2, 2), (3, 1), (1, 2)])
def test_sets_for_a_host_of_another_size_are_refused(size: tuple[int, int]) -> None:
    policy = NammPolicy(MemoryConfig(scorer=ScorerConfig(sets=(3, 2))))
    policy.check_size(3, 2)
    with pytest.raises(ValueError, match=r"parameters for \(3, 2\)"):
        policy.check_size(*size)


@pytest.mark.parametrize("kind", ["bam", "linear", "mlp"])
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_fresh_scorer_gives_its_start_to_every_slot(kind, start: float) -> None:
    policy = NammPolicy(MemoryConfig(scorer=ScorerConfig(kind, start=start)))
    features = jnp.asarray(np.random.default_rng().normal(size=(2, 9, 25)), jnp.float32)
    scores = policy.apply(policy.initial_scorer(), features, jnp.ones((2, 9), bool))
    np.testing.assert_array_equal(scores, np.full((2, 9), start, np.float32))


def test_flat_parameters_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="4172"):
        from_flat(np.zeros(4171, np.float32), NammPolicy(MemoryConfig()).initial_scorer())
