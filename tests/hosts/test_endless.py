"""A host that reads without end: right numbers, constant memory, no new programs, a clear end where there is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hosts import endless
from hosts.endless import Reader
from hosts.llama import forward
from hosts.rollout import Schedule, prefill
from hosts.stream import make_engine
from hosts.weights import Host
from namm.artefact import Memory, training_free
from tests.oracles.llama import TokenByToken
from tests.random_host import INTERVAL, SPEC, all_memories, random_params

BUDGET = 24

pytestmark = pytest.mark.usefixtures("compile_quickly")


@pytest.fixture
def rng():
    return np.random.default_rng()


@pytest.fixture
def host(rng) -> Host:
    return Host(SPEC, random_params(int(rng.integers(2**31))), None)


def read_in_parts(reader: Reader, tokens: np.ndarray, rng) -> np.ndarray:
    """Surprisals of tokens read in portions of random sizes."""
    cuts = np.sort(rng.integers(0, len(tokens), 5))
    return np.concatenate([reader.read(part.tolist(), scored=True) for part in np.split(tokens, cuts)])


FORWARD = jax.jit(forward, static_argnums=1)


def surprisals(host: Host, tokens: np.ndarray) -> np.ndarray:
    """Of the host without a cache; the first token's is 0."""
    logits = FORWARD(host.params, SPEC, jnp.asarray(tokens[None]))[0]
    scores = -np.asarray(jax.nn.log_softmax(logits))
    return np.concatenate([[0.0], scores[np.arange(len(tokens) - 1), tokens[1:]]])


def test_the_full_cache_reads_like_the_host_alone_in_any_portions(host, rng) -> None:
    tokens = rng.integers(0, 49, 200)
    reader = Reader(host, training_free("keep-all", interval=INTERVAL), budget=1)
    got = read_in_parts(reader, tokens, rng)
    np.testing.assert_allclose(got, surprisals(host, tokens), atol=2e-4)
    assert reader.kept_share == 1.0 and reader.seen == 200
    last = FORWARD(host.params, SPEC, jnp.asarray(tokens[None]))[0, -1]
    assert reader.pick() == int(np.argmax(last))


@pytest.mark.parametrize("sinks", [0, 4])
def test_slot_positions_follow_the_papers_cache(host, rng, sinks: int) -> None:
    """StreamingLLM in float64, one token at a time: first and newest tokens, keys rotated by place in the cache."""
    tokens, interval = rng.integers(0, 49, 90), 8
    reader = Reader(host, training_free(f"streaming-llm:sinks={sinks}", interval=interval), BUDGET)
    got = reader.read(tokens.tolist(), scored=True)
    oracle, held, expected = TokenByToken(host.params, SPEC), 0, [0.0]
    for number, token in enumerate(tokens[:-1], start=1):
        logits = oracle.step(int(token), held, list(range(held + 1)))
        expected.append(np.log(np.sum(np.exp(logits - logits.max()))) + logits.max() - logits[tokens[number]])
        held += 1
        if number % interval == 0 and held > BUDGET:
            stay = [*range(sinks), *range(held - BUDGET + sinks, held)]
            old, oracle.past = oracle.past, {}
            for layer in range(SPEC.layers):
                for slot, place in enumerate(stay):
                    key, value = old[layer, place]
                    oracle.past[layer, slot] = (oracle._rotated(key, slot - place), value)
            held = BUDGET
    np.testing.assert_allclose(got, expected, atol=3e-4)


def test_a_window_reads_alike_at_slot_and_at_original_positions(host, rng) -> None:
    tokens = rng.integers(0, 49, 200)
    names = ("sliding-window", "streaming-llm:sinks=0", "streaming-llm")
    original, slot, sinks = (
        Reader(host, training_free(name, interval=INTERVAL), BUDGET).read(tokens.tolist(), scored=True)
        for name in names
    )
    np.testing.assert_allclose(original, slot, atol=5e-4)
    assert np.max(np.abs(slot - sinks)) > 0.01, "sinks must make a difference"


@pytest.mark.parametrize("name", ["h2o", "namm-head-budgets"])
def test_it_keeps_what_prefill_keeps(host, rng, name: str) -> None:
    memory = all_memories()[name]
    tokens = rng.integers(0, 49, 3 * INTERVAL)
    reader = Reader(host, memory, BUDGET)
    read_in_parts(reader, tokens, rng)
    stream = jax.jit(prefill, static_argnums=0, static_argnames="schedule")(
        make_engine(SPEC, memory.policy, memory.selection, reader.length), host.params, memory.population,
        jnp.asarray(tokens[None], jnp.int32), jnp.array([len(tokens)], jnp.int32), jnp.array([BUDGET], jnp.int32),
        schedule=Schedule(INTERVAL, INTERVAL, reader.layout.kept), key=jax.random.key(0),
    )
    for field in ("valid", "positions"):
        np.testing.assert_array_equal(getattr(reader.stream.cache, field), getattr(stream.cache, field))
    np.testing.assert_allclose(reader.stream.cache.values, stream.cache.values, atol=2e-4)
    counts = np.asarray(stream.cache.valid.sum(-1))
    assert counts.mean() <= BUDGET and reader.kept_share <= BUDGET / len(tokens)
    assert (counts.max() > BUDGET) == (memory.selection.budgets == "head")


@pytest.mark.parametrize("name", ["streaming-llm", "sirllm:decay=0.9"])
def test_nothing_grows_and_nothing_is_compiled_again(host, rng, name: str) -> None:
    reader = Reader(host, training_free(name, interval=INTERVAL), BUDGET)
    programs = (endless._read, endless._update, endless._pick)
    seen = []
    for _ in range(6):
        read_in_parts(reader, rng.integers(0, 49, 400), rng)
        reader.read([reader.pick(temperature=0.7)])
        reader.update()
        held = np.asarray(reader.stream.cache.valid).sum(-1)
        assert held.min() == held.max() == BUDGET and reader.room > 10**9
        assert int(reader.stream.position[0]) == BUDGET
        seen.append((reader.cache_bytes, *(program._cache_size() for program in programs)))
    assert len(set(seen[1:])) == 1, seen
    assert reader.seen == 6 * 401 > 4 * SPEC.max_positions


def test_original_positions_end_where_the_hosts_do(host, rng) -> None:
    reader = Reader(host, training_free("h2o", interval=INTERVAL), BUDGET)
    reader.read(rng.integers(0, 49, SPEC.max_positions - 3).tolist())
    assert reader.room == 3
    with pytest.raises(ValueError, match="4 tokens do not fit: h2o keeps original positions, and of the 512"):
        reader.read([1, 2, 3, 4])
    reader.read([1, 2, 3])
    assert reader.room == 0 and reader.seen == SPEC.max_positions
    reader.reset()
    assert reader.room == SPEC.max_positions and not np.any(reader.stream.cache.valid)


def test_sampling_follows_the_softmax(host, rng) -> None:
    tokens = rng.integers(0, 49, 20)
    logits = np.asarray(FORWARD(host.params, SPEC, jnp.asarray(tokens[None]))[0, -1], np.float64)
    wanted = np.exp(logits / 5 - np.max(logits / 5))
    counts = np.zeros(SPEC.vocabulary)
    reader = Reader(host, training_free("keep-all", interval=INTERVAL), 1)
    reader.read(tokens.tolist())
    for reader.seed in range(400):
        counts[reader.pick(temperature=5.0)] += 1
    assert np.abs(counts / 400 - wanted / wanted.sum()).sum() / 2 < 0.25  # total variation


@pytest.mark.parametrize(
    ("memory", "budget", "message"),
    [
        (training_free("streaming-llm", interval=INTERVAL), 500, "budget 500 and interval 32 need as many slot"),
        (training_free("h2o", interval=INTERVAL, recent=8), 7, "budget is 7; expected at least the 8"),
        (training_free("h2o", interval=0), 7, "interval is 0"),
    ],
)
def test_what_cannot_work_is_refused(host, memory: Memory, budget: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reader(host, memory, budget)
