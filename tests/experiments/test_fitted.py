"""A fitted start: what answers attend to, and the least-squares fits to it, against float64."""

import itertools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import fitted as fitting
from experiments.fitted import FLOOR, LEAST, MOST, PARTS, RIDGE, attended, fitted, least_lost
from experiments.prompts import PromptSource, TaskMix
from experiments.recordings import Record, RecordPool, stack
from experiments.tasks.encoding import Batch
from hosts.rollout import record
from hosts.stream import Engine, make_engine
from hosts.weights import Host, load_host
from namm.artefact import Memory, make, training_free
from namm.config import MemoryConfig, ScorerConfig
from namm.selection import SelectionConfig
from tests.oracles.memory import standardised
from tests.random_host import SPEC, random_params
from tests.tiny import save_host, tiny_llama

pytestmark = pytest.mark.usefixtures("compile_quickly")


def test_attention_to_the_context_is_that_of_one_pass_over_everything() -> None:
    """H2O's sums over one pass, a query at a time, give every query's attention."""
    rng, lengths = np.random.default_rng(), np.array([40, 33])
    asked, answered = np.array([5, 7]), np.array([3, 2])
    memory, params = training_free("h2o"), random_params(1)
    engine = make_engine(SPEC, memory.policy, memory.selection)
    tokens = rng.integers(1, SPEC.vocabulary, (2, 60)).astype(np.int32)
    rows = [np.split(tokens[i], np.cumsum([lengths[i], asked[i], answered[i]]))[:3] for i in range(2)]
    context, question, target = (np.stack([np.pad(row[i], (0, 40 - len(row[i]))) for row in rows]) for i in range(3))
    prompt = Batch(context, lengths, question[:, :8], asked, target[:, :4], answered)
    stream = record(engine, params, jnp.asarray(context), jnp.asarray(lengths), 16, jax.random.key(0))
    got = np.asarray(attended(engine, params, stream, prompt))
    for row in range(2):
        n, total = lengths[row], lengths[row] + asked[row] + answered[row] - 1
        sums = [
            record(engine, params, jnp.asarray(tokens[row : row + 1, :end]), jnp.array([end]), end, jax.random.key(0))
            .state.slots["received"][:, 0, :, :n]
            for end in range(n, total + 1)
        ]
        expected = np.diff(np.asarray(sums), axis=0).max(0)
        np.testing.assert_allclose(got[:, row, :, :n], expected, atol=2e-5)


def reading(scorer: ScorerConfig, folder: Path) -> tuple[Memory, Engine, Host, list[list[Record]]]:
    """A memory of two blocks for a tiny host, and two batches of two prompts."""
    host = load_host(save_host(folder / "host", tiny_llama(max_position_embeddings=2048)))
    config = MemoryConfig(("norms", "newness"), scorer=scorer, selection=SelectionConfig(threshold=None))
    memory = make("fit", config)
    source = PromptSource(host, TaskMix(("passkey",), 700))
    engine = make_engine(host.spec, memory.policy, memory.selection)
    pool = RecordPool(engine, host.params, source, 64, 4, 2)
    return memory, engine, host, [pool.get("train", [0, 1]), pool.get("train", [2, 3])]


def tokens(
    memory: Memory,
    engine: Engine,
    host: Host,
    batches: list[list[Record]],
    axes: int,
    shares: tuple[float, ...] = (1.0,),
) -> dict:
    """By set of parameters: features, standardised log attention and weight of every token, float64.

    shares: of a context that a memory has read when it sees its tokens.
    """
    rows: dict[tuple[int, ...], list[np.ndarray]] = {}
    for records, share in itertools.product(batches, shares):
        stream, prompt = jax.tree.map(jnp.asarray, stack(records))
        seen = np.asarray(attended(engine, host.params, stream, prompt), np.float64)
        for layer, row, head in np.ndindex(seen.shape[:3]):
            cache = jax.tree.map(lambda x: x[layer, row], stream.cache)  # noqa: B023 (used at once)
            state = jax.tree.map(lambda x: x[layer, row], stream.state)  # noqa: B023 (used at once)
            read = np.arange(cache.valid.shape[1]) < share * int(stream.seen[row])
            cache = cache._replace(valid=cache.valid & read)
            known = np.asarray(memory.policy.features({}, state, cache)[0], np.float64)[head]  # type: ignore[attr-defined]
            held = np.asarray(cache.valid)[head]
            wanted = standardised(np.log(seen[layer, row, head, held] + FLOOR))
            weight = np.exp(np.clip(wanted, LEAST, MOST))
            columns = np.concatenate([known[held], wanted[:, None], weight[:, None]], axis=1)
            rows.setdefault((layer, head)[:axes], []).append(columns)
    whole = {index: np.concatenate(parts) for index, parts in rows.items()}
    return {index: (x[:, :-2], x[:, -2], x[:, -1:]) for index, x in whole.items()}


def solved(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weights of the features, and the bias behind them."""
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    return np.linalg.solve(x.T @ (weight * x) + RIDGE * np.eye(x.shape[1]), x.T @ (weight[:, 0] * y))


@pytest.mark.parametrize("sets", [(), (2,), (2, 2)])
def test_the_fit_is_the_weighted_least_squares_one(sets: tuple[int, ...], tmp_path: Path) -> None:
    memory, engine, host, batches = reading(ScorerConfig("linear", sets=sets), tmp_path)
    found = fitted(memory, engine, host.params, lambda: batches, 0.3).params.evolved["params"]["score"]
    whole = replace(memory, selection=SelectionConfig(threshold=0.7))
    above = fitted(whole, engine, host.params, lambda: batches, 0.3).params.evolved["params"]["score"]
    for index, (x, y, weight) in tokens(memory, engine, host, batches, len(sets)).items():
        expected = solved(x, y, weight)
        np.testing.assert_allclose(found["kernel"][index][:, 0], expected[:-1], atol=2e-3)
        np.testing.assert_allclose(found["bias"][index][0], expected[-1], atol=2e-3)
        np.testing.assert_array_equal(above["kernel"][index], found["kernel"][index])
        scores = x @ np.asarray(above["kernel"][index][:, 0], np.float64) + float(above["bias"][index][0])
        assert abs((scores >= 0.7).mean() - 0.3) < 2 / len(scores)


def test_a_fit_judges_tokens_while_it_reads(tmp_path: Path) -> None:
    memory, engine, host, batches = reading(ScorerConfig("linear", sets=(2, 2)), tmp_path)
    shares = (0.3, 0.55, 1.0)
    found = fitted(memory, engine, host.params, lambda: batches, 0.3, shares).params.evolved["params"]["score"]
    ends = tokens(memory, engine, host, batches, 2)
    for index, (x, y, weight) in tokens(memory, engine, host, batches, 2, shares).items():
        assert 1.8 * len(ends[index][0]) < len(x) < 1.9 * len(ends[index][0])
        expected = solved(x, y, weight)
        np.testing.assert_allclose(found["kernel"][index][:, 0], expected[:-1], atol=2e-3)
        np.testing.assert_allclose(found["bias"][index][0], expected[-1], atol=2e-3)
        assert np.abs(expected - solved(*ends[index])).max() > 0.02, "the ends alone would do"


@pytest.mark.parametrize("sets", [(), (2,), (2, 2)])
def test_an_mlp_fits_better_than_any_line(
    sets: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "STEPS", 300)
    monkeypatch.setattr(fitting, "RATE", 1e-2)
    memory, engine, host, batches = reading(ScorerConfig("mlp", 8, sets=sets), tmp_path)
    whole = replace(memory, selection=SelectionConfig(threshold=0.7))
    found, above = (fitted(x, engine, host.params, lambda: batches, 0.3).params.evolved for x in (memory, whole))
    for index, (x, y, weight) in tokens(memory, engine, host, batches, len(sets)).items():
        own, moved = (jax.tree.map(lambda leaf: leaf[index], params["params"]) for params in (found, above))  # noqa: B023
        assert all(np.array_equal(own[name]["kernel"], moved[name]["kernel"]) for name in own)

        def scores(layers: dict, x: np.ndarray = x) -> np.ndarray:
            part = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), layers)
            inner = np.tanh(x @ part["inner"]["kernel"] + part["inner"]["bias"])
            return (x @ part["score"]["kernel"] + part["score"]["bias"] + inner @ part["outer"]["kernel"])[:, 0]

        line = np.concatenate([x, np.ones((len(x), 1))], axis=1) @ solved(x, y, weight)
        errors = [np.average((guess - y) ** 2, weights=weight[:, 0]) for guess in (scores(own), line)]
        assert errors[0] < 0.98 * errors[1]
        assert abs((scores(moved) >= 0.7).mean() - 0.3) < 3 / len(y)


def test_budgets_lose_the_least_there_is_to_lose() -> None:
    """Against every way to share out the parts; curves that fall ever more slowly."""
    rng, heads, parts, kept = np.random.default_rng(), 4, 8, 0.25
    drops = -np.sort(-rng.random((heads, parts)), axis=1)
    lost = np.pad(np.cumsum(drops[:, ::-1], axis=1)[:, ::-1], ((0, 0), (0, 1)))
    taken = np.exp(least_lost(lost, kept)) * kept * parts
    ways = [way for way in np.ndindex(*(parts + 1,) * heads) if sum(way) == kept * parts * heads]
    best = min(ways, key=lambda way: lost[range(heads), list(way)].sum())
    np.testing.assert_allclose(np.where(taken < 0.5, 0.0, taken), best)


def test_no_budget_is_wider_than_a_head_may_be() -> None:
    lost = np.stack([np.linspace(100.0, 0.0, 65), *np.linspace(1.0, 0.0, 65)[None].repeat(15, 0)])
    shares = np.exp(least_lost(lost, 1 / 16))
    assert shares[0] == 4.0 and shares.mean() <= 1.0 + 1 / 64


@pytest.mark.parametrize("budgets", ["layer", "head"])
def test_fitted_budgets_follow_what_is_lost(budgets: str, tmp_path: Path) -> None:
    """The curves are those of tokens dropped one by one, and the score is fitted as without them."""
    memory, engine, host, batches = reading(ScorerConfig("linear", sets=(2, 2)), tmp_path)
    selection = SelectionConfig(threshold=None, budgets=budgets)  # type: ignore[arg-type]
    own = make("fit", replace(memory.policy.config, selection=selection))  # type: ignore[attr-defined]
    plain = fitted(memory, engine, host.params, lambda: batches, 0.3).params.evolved
    found = fitted(own, engine, host.params, lambda: batches, 0.3, kept=0.1).params.evolved
    jax.tree.map(np.testing.assert_array_equal, found["params"], plain["params"])
    lost = np.zeros((2, 2, PARTS + 1))
    for records in batches:
        stream, prompt = jax.tree.map(jnp.asarray, stack(records))
        paid = np.asarray(attended(engine, host.params, stream, prompt), np.float64)
        for layer, row, head in np.ndindex(paid.shape[:3]):
            cache = jax.tree.map(lambda x: x[layer, row], stream.cache)  # noqa: B023 (used at once)
            state = jax.tree.map(lambda x: x[layer, row], stream.state)  # noqa: B023 (used at once)
            known = np.asarray(memory.policy.features({}, state, cache)[0])[head]  # type: ignore[attr-defined]
            weights = jax.tree.map(lambda x: np.asarray(x)[layer, head], plain["params"]["score"])  # noqa: B023
            held = np.asarray(cache.valid)[head]
            best = np.argsort(-(known[held] @ weights["kernel"][:, 0]), kind="stable")
            left = np.append(paid[layer, row, head][held][best], 0.0)[::-1].cumsum()[::-1]
            lost[layer, head] += left[np.ceil(np.arange(PARTS + 1) / PARTS * held.sum()).astype(int)] / 4
    expected = least_lost(lost.mean(1) if budgets == "layer" else lost, 0.1)
    np.testing.assert_allclose(found["budgets"], expected, atol=0.3)  # a part more or less where curves are level
    assert np.ptp(expected) > 0.5, "budgets alike for all would do"
