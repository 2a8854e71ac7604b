"""Targets behind a context that was read, block by block, against one plain forward over each whole row."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hosts.answering import likelihood, settled
from hosts.llama import forward
from hosts.rollout import record
from hosts.stream import make_engine
from namm.artefact import training_free
from namm.contract import NO_PARAMETERS
from tests.random_host import SPEC, random_params

pytestmark = pytest.mark.usefixtures("compile_quickly")
FULL = training_free("keep-all")
ENGINE = make_engine(SPEC, FULL.policy, FULL.selection)
ROWS, CONTEXT, QUESTION, TARGET = 5, 30, 11, 9


@pytest.mark.parametrize("longest", [QUESTION, 3])
@pytest.mark.parametrize("block", [1, 6, 100])
def test_blocks_answer_as_a_plain_forward(block: int, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions of all lengths, and short ones alone, after which blocks are left out."""
    monkeypatch.setattr("hosts.answering.BLOCK", block)
    monkeypatch.setattr("hosts.answering.JUDGED", max(1, block // 2))
    rng = np.random.default_rng()
    params = random_params(int(rng.integers(1000)))
    contexts, questions, targets = (rng.integers(0, 49, (ROWS, n)) for n in (CONTEXT, QUESTION, TARGET))
    read, asked = rng.integers(10, CONTEXT + 1, ROWS), rng.integers(1, longest + 1, ROWS)
    wanted = rng.integers(1, min(longest, TARGET) + 1, ROWS)
    lengths = (jnp.asarray(x, jnp.int32) for x in (read, asked, wanted))
    context_length, question_length, target_length = lengths
    stream = jax.jit(partial(record, ENGINE, chunk=10))(
        params, jnp.asarray(contexts), context_length, key=jax.random.key(0)
    )
    found = jax.jit(partial(likelihood, ENGINE, schedule=settled(CONTEXT)))(
        params, NO_PARAMETERS, stream, jnp.asarray(questions), question_length, jnp.asarray(targets), target_length,
        budget=jnp.full(ROWS, CONTEXT),
    )  # fmt: skip
    for row in range(ROWS):
        begin, target = read[row] + asked[row], targets[row, : wanted[row]]
        whole = np.concatenate([contexts[row, : read[row]], questions[row, : asked[row]], target])
        scores = jax.nn.log_softmax(forward(params, SPEC, jnp.asarray(whole[None], jnp.int32))[0])
        expected = scores[np.arange(begin - 1, begin - 1 + len(target)), target]
        np.testing.assert_allclose(found.log_probability[row, : len(target)], expected, atol=2e-4)
        np.testing.assert_array_equal(found.greedy[row, : len(target)], scores.argmax(-1)[begin - 1 : -1] == target)
        assert not found.valid[row, len(target) :].any() and found.valid[row, : len(target)].all()
