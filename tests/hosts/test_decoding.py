"""Decoding that lets go of finished rows against all rows together to the end."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hosts.answering import settled
from hosts.decoding import LEAST, advance, finish, generate, keep_rows, start_decoding
from hosts.rollout import record
from hosts.stream import make_engine, unwatched
from namm.artefact import training_free
from namm.contract import NO_PARAMETERS
from tests.random_host import SPEC, random_params

pytestmark = pytest.mark.usefixtures("compile_quickly")
FULL = training_free("keep-all")
ENGINE = make_engine(SPEC, FULL.policy, FULL.selection)
RNG = np.random.default_rng()
ROWS, CONTEXT, QUESTION, STEPS = 13, 40, 5, 24


@pytest.fixture(scope="module")
def case():
    """Random prompts and limits: a few long answers among short ones."""
    params = random_params(3)
    tokens = jnp.asarray(RNG.integers(0, 49, (ROWS, CONTEXT)), jnp.int32)
    lengths = jnp.asarray(RNG.integers(20, CONTEXT + 1, ROWS), jnp.int32)
    stream = unwatched(jax.jit(partial(record, ENGINE, chunk=20))(params, tokens, lengths, key=jax.random.key(0)))
    question = jnp.asarray(RNG.integers(0, 49, (ROWS, QUESTION)), jnp.int32)
    asked = jnp.asarray(RNG.integers(1, QUESTION + 1, ROWS), jnp.int32)
    limits = jnp.asarray(np.where(RNG.random(ROWS) < 0.4, RNG.integers(10, STEPS + 5, ROWS), 3), jnp.int32)
    return params, stream, question, asked, limits


def runs(case, eos: tuple[int, ...], calls: list[int] | None = None):
    params, stream, question, asked, limits = case
    budget = jnp.full(ROWS, CONTEXT)
    shared = (ENGINE, params, NO_PARAMETERS, stream, question, asked, budget, settled(CONTEXT), STEPS)
    together = generate(*shared, eos=eos, limits=limits)
    decoding = start_decoding(*shared, limits=limits)
    step = jax.jit(partial(advance, ENGINE, params, NO_PARAMETERS, budget=budget, schedule=settled(CONTEXT), eos=eos))

    def run(decoding, until):
        if calls is not None:
            calls.append(len(decoding.done))
        return step(decoding, until=until)

    return np.asarray(together), finish(run, decoding)


@pytest.mark.parametrize("eos", [(), (7, 11), tuple(range(0, 49, 2))])
def test_every_row_is_answered_as_together(case, eos: tuple[int, ...]) -> None:
    calls: list[int] = []
    together, apart = runs(case, eos, calls)
    np.testing.assert_array_equal(apart, together)
    assert calls == [ROWS, ROWS // 2][: len(calls)] and ROWS // 4 < LEAST
    assert (together == -1).any() and not (together == -1).all()


def test_rows_are_let_go(case) -> None:
    """One long answer among short ones is decoded in a smaller batch."""
    params, stream, question, asked, _ = case
    calls: list[int] = []
    limits = jnp.full(ROWS, 2).at[5].set(STEPS)
    together, apart = runs((params, stream, question, asked, limits), (), calls)
    np.testing.assert_array_equal(apart, together)
    assert calls == [ROWS, ROWS // 2] and (apart[5] >= 0).all() and (np.delete(apart, 5, 0)[:, 2:] == -1).all()


def test_kept_rows_are_whole(case) -> None:
    params, stream, question, asked, limits = case
    budget = jnp.full(ROWS, CONTEXT)
    whole = start_decoding(
        ENGINE, params, NO_PARAMETERS, stream, question, asked, budget, settled(CONTEXT), STEPS, limits
    )
    some = keep_rows(whole, jnp.array([4, 1]))
    assert whole.past is not None and some.past is not None
    np.testing.assert_array_equal(some.past.keys, whole.past.keys[:, [4, 1]])
    np.testing.assert_array_equal(some.stream.cache.values, whole.stream.cache.values[:, [4, 1]])
    np.testing.assert_array_equal(some.limits, whole.limits[jnp.array([4, 1])])
    np.testing.assert_array_equal(some.stream.hidden, whole.stream.hidden[jnp.array([4, 1])])
