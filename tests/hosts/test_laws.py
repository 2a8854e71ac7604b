"""The house's laws over every policy: what a memory drops, how prompts are chunked, batched or padded."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hosts.answering import likelihood
from hosts.decoding import generate
from hosts.llama import forward
from hosts.rollout import Schedule, left_to_right, prefill, record
from hosts.stream import Stream, compress, make_engine
from namm.artefact import Memory, training_free
from namm.contract import NO_PARAMETERS, Parameters, PolicyState
from namm.memory import Layout
from tests.oracles.llama import TokenByToken
from tests.random_host import INTERVAL, SPEC, all_memories, random_params

MEMORIES = all_memories()
KEPT, CONTEXT, QUESTION, TARGET, STEPS = 20, 90, 6, 3, 5
SCHEDULE = Schedule(INTERVAL, 16, KEPT)
each_memory = pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)


PREFILL = jax.jit(prefill, static_argnums=0, static_argnames="schedule")
LIKELIHOOD = jax.jit(likelihood, static_argnums=0, static_argnames="schedule")
GENERATE = jax.jit(generate, static_argnums=0, static_argnames=("schedule", "steps", "eos"))
PLAIN = make_engine(SPEC, training_free("keep-all").policy, training_free("keep-all").selection)

pytestmark = pytest.mark.usefixtures("compile_quickly")


class Case:
    """Two random prompts of different lengths, and every stage of a rollout on them."""

    def __init__(self, memory: Memory, seed: int, schedule: Schedule = SCHEDULE, lengths=(CONTEXT, 53)):
        rng = np.random.default_rng(seed)
        self.params = random_params(seed)
        self.engine = make_engine(SPEC, memory.policy, memory.selection)
        self.memory = memory.population
        self.schedule = schedule._replace(kept=schedule.kept * memory.selection.widest)
        self.context = jnp.asarray(rng.integers(0, 49, (2, CONTEXT)), jnp.int32)
        self.lengths = jnp.asarray(lengths, jnp.int32)
        self.question = jnp.asarray(rng.integers(0, 49, (2, QUESTION)), jnp.int32)
        self.question_length = jnp.asarray(rng.integers(2, QUESTION + 1, 2), jnp.int32)
        self.target = jnp.asarray(rng.integers(0, 49, (2, TARGET)), jnp.int32)
        self.target_length = jnp.full(2, TARGET, jnp.int32)
        self.budget = jnp.full(2, schedule.kept, jnp.int32)

    def prefill(self, run=PREFILL) -> Stream:
        arguments = (self.engine, self.params, self.memory, self.context, self.lengths, self.budget)
        return run(*arguments, schedule=self.schedule, key=jax.random.key(7))

    def answer(self, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
        """Log-likelihood of the target and greedy tokens, with the cache as it stands."""
        bare = stream._replace(state=PolicyState({}, {}))
        call = (PLAIN, self.params, NO_PARAMETERS, bare, self.question, self.question_length)
        scored = LIKELIHOOD(*call, self.target, self.target_length, self.budget, schedule=self.schedule)
        tokens = GENERATE(*call, self.budget, schedule=self.schedule, steps=STEPS, eos=SPEC.eos_ids)
        return np.asarray(scored.log_probability), np.asarray(tokens)


FORWARD = jax.jit(forward, static_argnums=1)


def after(params, prompt: list[int], answer) -> np.ndarray:
    """Log-probabilities of the host without a cache at the places of the answer's tokens, [token, vocabulary]."""
    answer = np.maximum(np.asarray(answer), 0)  # what follows an end of sequence is not looked at
    text = np.zeros((1, CONTEXT + QUESTION + STEPS), np.int32)  # one width, one compilation; padding comes after
    text[0, : len(prompt) + len(answer)] = [*prompt, *answer]
    logits = FORWARD(params, SPEC, jnp.asarray(text))[0]
    return np.asarray(jax.nn.log_softmax(logits))[len(prompt) - 1 : len(prompt) - 1 + len(answer)]


def held(stream: Stream) -> np.ndarray:
    """Positions each layer, row and head holds, empty slots as -1."""
    return np.where(stream.cache.valid, stream.cache.positions, -1)


@each_memory
def test_batch_members_do_not_influence_each_other(memory: Memory) -> None:
    """The first row keeps and answers the same beside any neighbour, of any length, at any padding."""
    case = Case(memory, seed=1)
    first = case.prefill()
    scores, tokens = case.answer(first)
    other = Case(memory, seed=2, lengths=(CONTEXT, 7))
    for name in ("context", "question", "question_length", "target"):
        mixed = jnp.stack([getattr(case, name)[0], getattr(other, name)[1]])
        setattr(case, name, mixed)
    case.lengths = other.lengths
    second = case.prefill()
    assert not np.array_equal(held(first)[:, 1], held(second)[:, 1])
    np.testing.assert_array_equal(held(first)[:, 0], held(second)[:, 0])
    new_scores, new_tokens = case.answer(second)
    np.testing.assert_allclose(new_scores[0], scores[0], atol=2e-4)
    np.testing.assert_array_equal(new_tokens[0], tokens[0])


@each_memory
def test_chunking_changes_nothing(memory: Memory) -> None:
    case = Case(memory, seed=2)
    whole = Case(memory, seed=2, schedule=SCHEDULE._replace(chunk=INTERVAL))
    chunked, once = case.prefill(), whole.prefill()
    np.testing.assert_array_equal(held(chunked), held(once))
    np.testing.assert_allclose(case.answer(chunked)[0], case.answer(once)[0], atol=2e-4)


def test_jit_changes_nothing() -> None:
    case = Case(MEMORIES["namm-all-features"], seed=2, schedule=SCHEDULE._replace(chunk=INTERVAL))
    np.testing.assert_array_equal(held(case.prefill()), held(case.prefill(run=prefill)))


@each_memory
def test_dropped_tokens_cannot_change_later_outputs(memory: Memory) -> None:
    """Overwriting the slots that hold nothing leaves every answer as it was, bit for bit."""
    case = Case(memory, seed=3)
    stream = case.prefill()
    empty = ~stream.cache.valid[..., None]
    rubbish = stream.cache._replace(
        keys=jnp.where(empty, 1e3, stream.cache.keys), values=jnp.where(empty, -1e3, stream.cache.values)
    )
    for before, after in zip(case.answer(stream), case.answer(stream._replace(cache=rubbish)), strict=True):
        np.testing.assert_array_equal(before, after)


@each_memory
def test_kept_slots_fit_the_budget_and_stand_in_position_order(memory: Memory) -> None:
    stream = Case(memory, seed=4).prefill()
    valid, positions = np.asarray(stream.cache.valid), np.asarray(stream.cache.positions)
    counts = valid.sum(-1)
    assert counts.min() >= 1 and counts.max() <= KEPT * memory.selection.widest
    if memory.selection.budgets != "equal":  # each has its own, whole tokens of it, and all together no more
        assert np.all((counts.mean((0, 2)) > KEPT - 1) & (counts.mean((0, 2)) <= KEPT)) and np.ptp(counts) > 1
        assert memory.selection.budgets == "head" or np.all(np.ptp(counts, axis=2) == 0)
    elif memory.selection.threshold is None:
        assert np.all(counts == KEPT)
    for row in np.ndindex(valid.shape[:3]):
        kept = positions[row][valid[row]]
        assert np.all(np.diff(kept) > 0)
    if memory.policy.position_rule == "original":
        newest = np.where(valid, positions, -1).max(-1)
        np.testing.assert_array_equal(newest, np.broadcast_to([[CONTEXT - 1], [52]], newest.shape))


@each_memory
def test_enough_capacity_is_the_host_without_a_memory(memory: Memory) -> None:
    """Nothing may be lost between a prefill and the answer, whatever the layout of the slots."""
    if memory.selection.threshold is not None:
        memory = replace(memory, selection=replace(memory.selection, threshold=-1e9))
    case = Case(memory, seed=5, schedule=Schedule(INTERVAL, 16, CONTEXT))
    stream = case.prefill()
    scores, tokens = case.answer(stream)
    for row in range(2):
        length, asked = int(case.lengths[row]), int(case.question_length[row])
        prompt = [*np.asarray(case.context[row, :length]), *np.asarray(case.question[row, :asked])]
        likelihoods = after(case.params, prompt, case.target[row])
        wanted = likelihoods[np.arange(TARGET), np.asarray(case.target[row])]
        np.testing.assert_allclose(scores[row], wanted, atol=2e-4)
        best = np.argmax(after(case.params, prompt, tokens[row]), axis=1)
        ended = np.cumsum(np.isin(best, SPEC.eos_ids)) > 0
        np.testing.assert_array_equal(tokens[row], np.where(ended, -1, best))


@each_memory
def test_candidates_do_not_influence_each_other(memory: Memory) -> None:
    """A population shares its prompts' first window, and yet each candidate fares as it does alone."""
    case = Case(memory, seed=6)
    rng = np.random.default_rng(6)
    if not jax.tree.leaves(case.memory.evolved):
        return  # a training-free policy has one candidate
    evolved = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=(3, *x.shape[1:])) * 0.5, jnp.float32), case.memory.evolved
    )
    case.memory = Parameters(evolved, case.memory.frozen)
    together = np.reshape(held(case.prefill()), (SPEC.layers, 3, 2, SPEC.kv_heads, -1))
    for i in range(3):
        thrice = jax.tree.map(lambda x: jnp.repeat(x[i : i + 1], 3, axis=0), evolved)  # noqa: B023
        case.memory = Parameters(thrice, case.memory.frozen)
        alone = np.reshape(held(case.prefill()), together.shape)
        np.testing.assert_array_equal(alone[:, 0], together[:, i])
    assert not np.array_equal(together[:, 0], together[:, 1])


@pytest.mark.parametrize("flush", [True, False])
@each_memory
def test_windows_before_anything_is_dropped_are_read_once(memory: Memory, flush: bool) -> None:
    """Budgets of several intervals, of other sizes, and a prompt that ends early: as each candidate does by itself."""
    if not jax.tree.leaves(memory.population.evolved):
        return  # a training-free policy has one candidate
    case = Case(memory, seed=12, schedule=Schedule(16, 8, 52, flush), lengths=(CONTEXT, 23))
    case.budget = jnp.asarray([37, 52], jnp.int32)  # the smaller holds two windows
    rng = np.random.default_rng(12)
    evolved = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=(3, *x.shape[1:])) * 0.5, jnp.float32), case.memory.evolved
    )
    case.memory = Parameters(evolved, case.memory.frozen)
    together = case.prefill()
    for i in range(3):
        case.memory = Parameters(jax.tree.map(lambda x: x[i : i + 1], evolved), case.memory.frozen)  # noqa: B023
        alone = case.prefill()
        rows = slice(2 * i, 2 * i + 2)
        np.testing.assert_array_equal(held(alone), held(together)[:, rows])
        np.testing.assert_allclose(alone.hidden, together.hidden[rows], atol=2e-4)
        np.testing.assert_array_equal(alone.window, together.window[rows])
        for a, b in zip(jax.tree.leaves(alone.state), jax.tree.leaves(together.state), strict=True):
            np.testing.assert_allclose(a, b[:, rows], atol=2e-4)


def test_left_padded_prompts_read_like_right_padded_ones() -> None:
    case = Case(MEMORIES["namm"], seed=8)
    shift = CONTEXT - case.lengths
    padded = jnp.stack([jnp.roll(row, int(n)) for row, n in zip(case.context, shift, strict=True)])
    mask = jnp.arange(CONTEXT) >= shift[:, None]
    tokens, lengths = left_to_right(padded, mask)
    np.testing.assert_array_equal(lengths, case.lengths)
    real = np.arange(CONTEXT) < np.asarray(lengths)[:, None]
    np.testing.assert_array_equal(np.where(real, tokens, 0), np.where(real, case.context, 0))


def test_without_flush_the_rest_waits_for_decoding() -> None:
    """The original's schedule: updates at multiples of the interval alone, the remainder stays until it is full."""
    memory = training_free("sliding-window", interval=INTERVAL)
    case = Case(memory, seed=9, schedule=Schedule(INTERVAL, 16, KEPT, flush=False), lengths=(CONTEXT, 20))
    stream = case.prefill()
    counts = np.asarray(stream.cache.valid.sum(-1))
    assert np.all(counts[:, 0] == KEPT + CONTEXT % INTERVAL) and np.all(counts[:, 1] == 20)
    np.testing.assert_array_equal(stream.window, [CONTEXT % INTERVAL, 20])


def test_updates_go_on_while_decoding() -> None:
    """Decoding past the interval evicts again: a sliding window against a host that is told what it may see."""
    memory = training_free("sliding-window", interval=INTERVAL)
    case = Case(memory, seed=10, lengths=(40, 40))
    run = partial(generate, case.engine, schedule=case.schedule, steps=40, eos=())
    arguments = (case.params, case.memory, case.prefill(), case.question, case.question_length, case.budget)
    tokens = np.asarray(jax.jit(run)(*arguments))[0]
    asked = int(case.question_length[0])
    text = [*map(int, case.context[0, :40]), *map(int, case.question[0, :asked]), *map(int, tokens)]
    host = TokenByToken(case.params, SPEC)
    held: list[int] = []
    window = 0
    for position, token in enumerate(text[:-1]):
        held.append(position)
        window += 1
        logits = host.step(token, position, held)
        if position >= 40 + asked - 1:
            assert int(np.argmax(logits)) == text[position + 1], f"token {position + 1}"
        full = window >= INTERVAL and not 40 <= position < 40 + asked - 1  # a question is read in one piece
        if full or position == 39:
            held, window = held[-KEPT:], 0
    assert window < len(tokens), "the run must have evicted while decoding"


@each_memory
def test_recorded_scoring_is_streaming_with_one_update_at_the_end(memory: Memory) -> None:
    """A context within one interval: compressing its record equals prefill, for every policy."""
    case = Case(memory, seed=11, schedule=Schedule(96, 16, KEPT))
    read = jax.jit(partial(record, case.engine, chunk=16))
    made = read(case.params, case.context, case.lengths, key=jax.random.key(7))
    layout = Layout(case.schedule.kept, 96)
    small = jax.jit(partial(compress, case.engine, layout=layout))(case.memory, made, case.budget)
    np.testing.assert_array_equal(held(small), held(case.prefill()))
