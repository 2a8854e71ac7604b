"""Every recipe from start to table on a tiny stand-in; resume; no recompilation; bad input."""

import io
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

import namm
from evolve.curriculum import Stage
from evolve.fitness import FitnessConfig
from evolve.loop import Context
from experiments.fitted import fitted
from experiments.page import write_report
from experiments.prompts import PromptSource, TaskMix, resolve_budget
from experiments.recipes import RECIPES
from experiments.recordings import RecordPool
from experiments.run_config import BesideConfig, PromptConfig, RunConfig, StageConfig
from experiments.training import SAMPLES, StageRunner, continued, runner_of_hosts, starting_runner, train
from hosts.spec import RopeSpec
from hosts.weights import load_host
from namm.config import MemoryConfig, ScorerConfig
from namm.features import SpectrumConfig
from namm.selection import SelectionConfig
from tests.tiny import save_host, tiny_llama

pytestmark = pytest.mark.usefixtures("compile_quickly")
GOLDEN = Path(__file__).parents[1] / "golden" / "longbench"
QUIET = Console(quiet=True)
TWO_HOSTS = StageConfig(("passkey", "niah-single"), 300, 2, (BesideConfig("pocket", ("pocket-recall",), 256),))
SETS = ScorerConfig(kind="linear", sets=(30,))
SIZE = (1, 2)  # layers and KV heads of the tiny host


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    model = tiny_llama(max_position_embeddings=2048, num_hidden_layers=1)
    return str(save_host(tmp_path_factory.mktemp("host"), model))


def shrunk(config: RunConfig, host: str) -> RunConfig:
    """The recipe at a size for a test: its own memory, search, scoring and stages."""
    sets = config.memory.scorer.sets
    stages = tuple(
        replace(stage, tasks=stage.tasks[:3], length=1100, generations=1 + (i == 0))
        for i, stage in enumerate(config.stages)
    )
    count = int(np.lcm.reduce([len(stage.tasks) for stage in stages]))
    return replace(
        config,
        host=host,
        stages=stages,
        memory=replace(config.memory, interval=256, scorer=replace(config.memory.scorer, sets=SIZE[: len(sets)])),
        fit=min(config.fit, 1),
        descent=min(config.descent, 1),
        start=None,  # what ships is for a host of another size
        use=replace(config.use, capacity=300, chunk=128),
        search=replace(config.search, population=4),
        prompts=PromptConfig(count, count, count, count, 2, min(config.prompts.streaming, 1), 1),
        candidates=2 if config.candidates else 0,
        policies=("keydiff", "streaming-llm", "keep-all"),
        rope=config.rope and RopeSpec("ntk", 10000.0, factor=config.rope.factor, alpha=config.rope.alpha),
    )


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAMM_DATA", str(GOLDEN))
    config = shrunk(RECIPES[name], tiny)
    memory = train(config, tmp_path / "run", QUIET)
    assert memory.provenance["generations"] == 1 + len(RECIPES[name].stages)
    made = {part: memory.provenance.get(part) for part in ("fit", "descent", "fit_tasks")}
    tasks = list(config.fit_tasks) or None
    assert made == {"fit": config.fit or None, "descent": config.descent or None, "fit_tasks": tasks}
    loaded = namm.load(tmp_path / "run" / "memory")
    for a, b in zip(jax.tree.leaves(memory.params), jax.tree.leaves(loaded.params), strict=True):
        np.testing.assert_array_equal(a, b)
    table = json.loads((tmp_path / "run" / "table.json").read_text())
    assert {"evolved", "start", "keydiff", "keep-all"} <= {row["memory"] for row in table}
    assert all(np.isfinite(row["score"]) and row["prompts"] for row in table)
    kept = {row["memory"]: row["kept"] for row in table}
    assert kept["keep-all"] == 1.0 and kept["keydiff"] < 1.0
    for file in ("curves.png", "table.csv", "verdicts.jsonl", "run.json"):
        assert (tmp_path / "run" / file).stat().st_size > 100


def small(tiny: str, **changes) -> RunConfig:
    return replace(shrunk(RECIPES["smollm2"], tiny), **changes)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tiny: str, tmp_path: Path) -> None:
    config = small(tiny, policies=("keydiff",))
    whole = train(config, tmp_path / "whole", QUIET)
    train(replace(config, time_limit=0.001), tmp_path / "parts", QUIET)
    assert namm.load(tmp_path / "parts" / "memory").provenance["generations"] == 1
    parts = train(config, tmp_path / "parts", QUIET)
    assert "data:image/png" in write_report(tmp_path / "parts").read_text(encoding="utf-8")
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_configuration_in_the_same_folder_is_refused(tiny: str, tmp_path: Path) -> None:
    train(small(tiny), tmp_path / "run", QUIET)
    with pytest.raises(ValueError, match="budget"):
        train(small(tiny, use=replace(small(tiny).use, budget=0.5)), tmp_path / "run", QUIET)


def test_a_later_stage_goes_on_in_the_same_folder(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMM_DATA", str(GOLDEN))
    first, second = (shrunk(RECIPES[f"llama3-8b-{stage}"], tiny) for stage in (1, 2))
    train(first, tmp_path, QUIET)
    before = (tmp_path / "search" / "metrics.jsonl").read_text().splitlines()
    memory = train(second, tmp_path, QUIET)
    after = (tmp_path / "search" / "metrics.jsonl").read_text().splitlines()
    added = [json.loads(line) for line in after[len(before) :]]
    assert after[: len(before)] == before and memory.provenance["generations"] == 3
    assert [(row["generation"], row["validation_stage"]) for row in added] == [(2, "stage-2"), (3, "stage-2")]
    with pytest.raises(ValueError, match=r"stages.*more generations"):
        train(first, tmp_path, QUIET)
    with pytest.raises(ValueError, match="prompts"):
        train(replace(second, prompts=replace(second.prompts, held_out=3)), tmp_path, QUIET)


def test_a_task_file_that_changed_is_refused(tiny: str, tmp_path: Path) -> None:
    """Where a search goes on; a later stage's own file, which the folder has not seen, is none of them."""
    files = [tmp_path / f"{name}.jsonl" for name in ("one", "two")]
    for file in files:
        lines = [json.dumps({"prompt": f"What is {i}? " * 10, "answers": ["it"]}) for i in range(20)]
        file.write_text("\n".join(lines))
    stages = tuple(StageConfig((str(file),), 200, 1) for file in files)
    config = small(tiny, stages=stages[:1])
    train(config, tmp_path / "run", QUIET)
    assert train(replace(config, stages=stages), tmp_path / "run", QUIET).provenance["generations"] == 2
    old = files[1].read_text()
    files[1].write_text(old.replace("What", "Who"))
    with pytest.raises(ValueError, match=r"^contents of .*two\.jsonl: .*another --folder"):
        train(replace(config, stages=stages), tmp_path / "run", QUIET)
    files[1].unlink()
    with pytest.raises(ValueError, match=r"^contents of .*two\.jsonl"):
        train(replace(config, stages=stages), tmp_path / "run", QUIET)
    files[1].write_text(old)
    train(replace(config, stages=stages), tmp_path / "run", QUIET)


@pytest.mark.parametrize("mode", ["recorded", "streaming"])
def test_nothing_recompiles_from_one_generation_to_the_next(mode: str, tiny: str, tmp_path: Path) -> None:
    config = small(tiny)
    config = replace(config, use=replace(config.use, mode=mode), prompts=replace(config.prompts, pool=4, fresh=2))
    host = load_host(tiny)
    runner = starting_runner(config, host, tmp_path, QUIET)
    compiled: list[float] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiled.append(duration) if event.endswith("backend_compile_duration") else None
    )
    for generation in range(4):
        if generation == 1:
            assert compiled
            compiled.clear()
        rng = np.random.default_rng(generation)
        population = jax.tree.map(
            lambda x: rng.normal(size=(4, *x.shape)).astype(np.float32),  # noqa: B023
            runner.memory.params.evolved,
        )
        runner.evaluation(population, Context(generation, Stage("stage-1", 9), generation))
    assert not compiled


@pytest.mark.parametrize("fresh", [0, 2])
def test_the_pool_moves_on_by_its_fresh_prompts(fresh: int, tiny: str, tmp_path: Path) -> None:
    config = small(tiny)
    config = replace(config, prompts=replace(config.prompts, draw=4, pool=6, fresh=fresh))
    runner = starting_runner(config, load_host(tiny), tmp_path, QUIET)
    for generation in range(4):
        drawn, newest = runner.drawn(generation, generation), 6 + fresh * generation
        assert len(set(drawn)) == 4 and newest - 6 <= min(drawn) and max(drawn) < newest
        assert drawn[4 - fresh :] == list(range(newest - fresh, newest))


def test_every_seed_has_training_prompts_of_its_own(tiny: str, tmp_path: Path) -> None:
    """Those of the search, and those that a start is fitted to."""
    linear = MemoryConfig(("norms",), interval=16, scorer=ScorerConfig(kind="linear"))
    fits = small(tiny, memory=linear, warm_start={}, fit=4)
    starts, prompts = [], []
    for seed in (0, 1, 2):
        runner = starting_runner(replace(fits, seed=seed), load_host(tiny), tmp_path / str(seed), QUIET)
        starts.append(np.concatenate([x.ravel() for x in jax.tree.leaves(runner.memory.params.evolved)]))
        prompts += [runner.source.prompt("train", index).sample.context for index in runner.drawn(7, 3)]
    assert len(set(prompts)) == len(prompts)
    assert np.ptp(starts, axis=0).max() > 0


def test_a_fit_has_tasks_of_its_own_beside_the_searchs(tiny: str, tmp_path: Path) -> None:
    """The fit is that to prompts of all of them, of which the search scores none without answers."""
    linear = MemoryConfig(("norms",), interval=16, scorer=ScorerConfig(kind="linear"))
    config = small(tiny, memory=linear, warm_start={}, fit=4, fit_tasks=("instructions/code/scipy",), seed=1)
    host = load_host(tiny)
    told = io.StringIO()
    runner = starting_runner(config, host, tmp_path, Console(file=told))
    lines = told.getvalue().splitlines()  # a threshold takes a second pass
    assert "Fit: 4 of 4 prompts" in lines and lines[-1] == "Fit, pass 2: 4 of 4 prompts"
    mix = TaskMix((*config.stages[0].tasks, *config.fit_tasks), config.stages[0].length)
    source, indices = PromptSource(host, mix, unanswered=True), [SAMPLES * len(mix.tasks) + i for i in range(4)]
    pool = RecordPool(runner.engine, host.params, source, config.use.chunk, 4, 1)
    records = [[one] for one in pool.get("train", indices)]
    expected = fitted(namm.make("x", linear), runner.engine, host.params, lambda: records, config.fit_share).params
    for got, want in zip(jax.tree.leaves(runner.memory.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert runner.source.mix.tasks == config.stages[0].tasks
    with pytest.raises(ValueError, match="no answers to score"):
        train(replace(config, fit_tasks=(), stages=(StageConfig(config.fit_tasks, 900, 1),)), tmp_path / "run", QUIET)


@pytest.mark.parametrize("rows", [2, 16])
@pytest.mark.parametrize("mode", ["recorded", "streaming"])
def test_population_members_score_as_they_do_alone(
    mode: str, rows: int, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In groups of two candidates and one prompt, and together."""
    monkeypatch.setattr("experiments.objective.CPU_ROWS", rows)
    jax.clear_caches()
    config = small(tiny)
    config = replace(config, use=replace(config.use, mode=mode), prompts=replace(config.prompts, batch=2))
    host = load_host(tiny)
    runner = starting_runner(config, host, tmp_path, QUIET)
    rng = np.random.default_rng()
    population = jax.tree.map(
        lambda x: rng.normal(size=(4, *x.shape)).astype(np.float32), runner.memory.params.evolved
    )
    together, exact, grade = runner.score(population, "train", [0, 1])
    assert np.ptp(together.grade[:, 0]) > 0 and exact.shape == grade.shape == (2,)
    backwards, _, _ = runner.score(jax.tree.map(lambda x: x[::-1], population), "train", [1, 0])
    np.testing.assert_allclose(together.grade, backwards.grade[::-1, ::-1], atol=1e-4)
    for i in range(4):
        alone, _, _ = runner.score(jax.tree.map(lambda x, i=i: x[i : i + 1], population), "train", [0, 1])
        for got, want in zip(alone, together, strict=True):
            np.testing.assert_allclose(got[0], want[i], atol=1e-4)


def test_what_is_kept_counts_in_validation_as_in_the_fitness(tiny: str, tmp_path: Path) -> None:
    config = small(tiny, fitness=FitnessConfig(grade_weight=0.3, kept_weight=0.5))
    runner = starting_runner(config, load_host(tiny), tmp_path, QUIET)
    found = runner.validation(runner.memory.params.evolved)
    assert found["kept"] > 0
    assert found["score"] == pytest.approx(found["exact"] + 0.3 * found["grade"] - 0.5 * found["kept"])


def test_hosts_of_a_stage_score_the_same_candidates(tiny: str, tmp_path: Path) -> None:
    """As each would alone; means weigh a task alike on whichever host, 2 of the first and 1 of the other."""
    linear = MemoryConfig(("key-cosine", "norms"), interval=64, scorer=ScorerConfig(kind="linear"))
    config = small(tiny, stages=(TWO_HOSTS,), memory=linear, warm_start={}, prompts=PromptConfig(4, 4, 0, 4, 4, 0, 4))
    (beside,) = config.beside(TWO_HOSTS)
    assert (beside.host, beside.prompts) == ("pocket", PromptConfig(2, 2, 0, 2, 2, 0, 2))
    assert config.scored(TWO_HOSTS) == 6
    first = starting_runner(config, load_host(tiny), tmp_path, QUIET)
    alone = [first, StageRunner(beside, beside.stages[0], load_host("pocket"), first.memory)]
    rng = np.random.default_rng()
    population = jax.tree.map(
        lambda x: rng.normal(size=(4, *x.shape)).astype(np.float32), first.memory.params.evolved
    )
    context = Context(3, Stage("stage-1", 2), 1)
    together = runner_of_hosts(config, first)
    found, parts = together.evaluation(population, context), [one.evaluation(population, context) for one in alone]
    assert found.scores.shape == (4, 3, 2) and np.ptp(parts[1].grade[:, 0, 0]) > 0
    for i, part in enumerate(parts):
        at = slice(2 * i, 2 + i)
        for name in ("scores", "grade"):
            np.testing.assert_array_equal(getattr(found, name)[:, at], getattr(part, name))
        np.testing.assert_array_equal(found.reference[at], part.reference)
    np.testing.assert_allclose(found.kept, (2 * parts[0].kept + parts[1].kept) / 3)
    assert found.info["grade"] == pytest.approx((2 * parts[0].info["grade"] + parts[1].info["grade"]) / 3)
    mean = jax.tree.map(lambda x: x[0], population)
    judged = [one.judge(mean, "test", count) for one, count in zip(alone, (4, 2), strict=True)]
    assert judged[0]["full_grade"] != judged[1]["full_grade"]
    for name, value in together.judge(mean, "test", 4).items():
        assert value == pytest.approx((2 * judged[0][name] + judged[1][name]) / 3)


def test_a_run_on_two_hosts_compares_on_both(tiny: str, tmp_path: Path) -> None:
    memory = train(shrunk(RECIPES["contents"], tiny), tmp_path, QUIET)
    assert memory.provenance["stages"][0]["beside"][0]["host"] == "pocket"
    for folder, length in ((tmp_path, 1100), (tmp_path / "pocket", 256)):
        rows = json.loads((folder / "table.json").read_text())
        assert {row["memory"] for row in rows} >= {"evolved", "start", "keydiff", "keep-all"}
        assert {row["length"] for row in rows} == {length}


@pytest.mark.parametrize("where", ["task", "length", "host beside", "task of a later stage"])
def test_a_run_that_could_not_begin_leaves_its_folder_free(where: str, tiny: str, tmp_path: Path) -> None:
    """A mistake that shows when hosts and prompts are read is corrected in the same folder."""
    config = shrunk(RECIPES["contents"], tiny)
    (stage,) = config.stages
    unknown = replace(stage, tasks=("nope", stage.tasks[1]))
    wrong = {
        "task": (unknown,),
        "length": (replace(stage, length=5000),),
        "host beside": (replace(stage, beside=(replace(stage.beside[0], host="nope"),)),),
        "task of a later stage": (stage, unknown),
    }[where]
    with pytest.raises((ValueError, FileNotFoundError)):
        train(replace(config, stages=wrong), tmp_path / "run", QUIET)
    assert not (tmp_path / "run").exists()
    train(replace(config, policies=("keydiff",)), tmp_path / "run", QUIET)
    assert (tmp_path / "run" / "table.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": ()}, "stages"),
        ({"stages": (replace(TWO_HOSTS, beside=(BesideConfig("a/smollm2-135m", ("passkey",), 90),)),)}, "differ"),
        ({"stages": (TWO_HOSTS,), "memory": MemoryConfig(("norms",), scorer=SETS), "warm_start": {}}, "scorer.sets"),
        ({"policies": ("keydif",)}, "keydif"),
        ({"warm_start": {"norms": 1.0}}, "norms"),
        ({"candidates": 3}, "candidates"),
        ({"start": "smollm2"}, "no warm_start beside it"),
        ({"fit": 12}, "neither start nor warm_start"),
        ({"fit": 12, "warm_start": {}, "memory": MemoryConfig()}, "scorer.kind"),
        ({"fit": 5, "warm_start": {}}, "multiple of prompts.batch"),
        ({"fit_share": 1.0}, "between 0 and 1"),
        ({"fit_read": (0.5, 0.0)}, "above 0 and at most 1"),
        ({"fit_tasks": ("instructions/prose",)}, "fit_tasks is .* expected none where fit and descent are 0"),
        ({"descent": 12, "warm_start": {}}, "descent is 12; expected memory.selection.budgets"),
        ({"directions": "shared"}, "scorer.sets is ()"),
        (
            {"directions": "budgets", "warm_start": {}, "memory": MemoryConfig(("norms",), scorer=SETS)},
            "directions is 'budgets'; expected memory.selection.budgets",
        ),
        ({"stages": (StageConfig(("passkey", "niah-single"), 300, 1),), "prompts": PromptConfig(3, 3, 3)}, "draw"),
    ],
)
def test_bad_configuration_names_its_field(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPES["smollm2"], **change)


def test_a_search_goes_on_from_a_memory_with_fewer_blocks(tmp_path: Path) -> None:
    """Its block's weights, wherever they stand, its bias and its statistics; nothing for a block that it lacks."""
    rng = np.random.default_rng()
    old = namm.make("old", MemoryConfig(("recency", "spectrum", "norms"), scorer=ScorerConfig("linear")))
    params = jax.tree.map(lambda x: rng.uniform(0.5, 1.0, x.shape).astype(np.float32), old.params)
    replace(old, params=params).save_pretrained(tmp_path / "old")
    wider = MemoryConfig(("norms", "latest", "recency", "spectrum"), scorer=ScorerConfig("linear"))
    new = continued(namm.make("new", wider), str(tmp_path / "old")).params
    was, now = (p.evolved["params"]["score"] for p in (params, new))
    expected = np.concatenate([was["kernel"][25:], np.zeros((4, 1)), was["kernel"][:25]])
    np.testing.assert_array_equal(now["kernel"], expected)
    np.testing.assert_array_equal(now["bias"], was["bias"])
    jax.tree.map(np.testing.assert_array_equal, new.frozen, params.frozen)


@pytest.mark.parametrize("kind", ["bam", "mlp"])
def test_a_search_goes_on_from_a_memory_with_the_same_scorer(kind: str, tmp_path: Path) -> None:
    """All of its score, whatever its kind; of another kind there is nothing to take over."""
    config = MemoryConfig(("norms", "near"), scorer=ScorerConfig(kind))
    old, rng = namm.make("old", config), np.random.default_rng()
    params = jax.tree.map(lambda x: rng.uniform(0.5, 1.0, x.shape).astype(np.float32), old.params)
    replace(old, params=params).save_pretrained(tmp_path / "old")
    new = continued(namm.make("new", config), str(tmp_path / "old"))
    jax.tree.map(np.testing.assert_array_equal, new.params.evolved, params.evolved)
    with pytest.raises(ValueError, match="linear scorer, or with the same scorer and features"):
        continued(namm.make("new", replace(config, features=("norms",))), str(tmp_path / "old"))


@pytest.mark.parametrize(
    ("start", "config", "message"),
    [
        ("keydiff", MemoryConfig(), "linear scorer"),
        ("pocket", MemoryConfig(), "linear scorer"),
        ("smollm2", MemoryConfig(("recency", "spectrum")), "expected some of"),
        ("smollm2", replace(RECIPES["smollm2"].memory, spectrum=SpectrumConfig(decay=0.9)), "decay=0.9"),
        ("smollm2", replace(RECIPES["smollm2"].memory, scorer=ScorerConfig("bam")), "scorer.kind 'linear' here too"),
        ("nothing-of-the-kind", MemoryConfig(), "unknown memory"),
    ],
)
def test_a_memory_that_a_search_cannot_start_from(start: str, config: MemoryConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        continued(namm.make("new", config), start)


def test_bad_lengths_and_budgets() -> None:
    for make in (TaskMix, lambda *mix: StageConfig(*mix, 1)):
        with pytest.raises(ValueError, match="length is 20"):
            make(("passkey",), 20)
        with pytest.raises(ValueError, match="tasks is empty"):
            make((), 200)
    with pytest.raises(ValueError, match="generations is 0"):
        StageConfig(("passkey",), 200, 0)
    with pytest.raises(ValueError, match="protected"):
        resolve_budget(3, np.array([100]), 50, 4)
    with pytest.raises(ValueError, match=r"budget is 1\.5"):
        resolve_budget(1.5, np.array([100]), 50, 1)
    np.testing.assert_array_equal(resolve_budget(0.125, np.array([100, 33]), 50, 1), [13, 5])


def test_a_prompt_longer_than_the_positions_is_refused(tiny: str, tmp_path: Path) -> None:
    config = small(tiny, stages=(StageConfig(("niah-single", "niah-multikey"), 5000, 1),))
    with pytest.raises(ValueError, match="2048 positions"):
        train(config, tmp_path, QUIET)


def test_a_search_goes_on_with_the_budgets_of_its_start(tmp_path: Path) -> None:
    """Those of a memory that shares its budget out alike; equal shares after one that has none."""
    scorer, equal = ScorerConfig("linear", sets=SIZE), SelectionConfig(threshold=None)
    own = MemoryConfig(("norms",), scorer=scorer, selection=replace(equal, budgets="head"))
    for name, config in (("own", own), ("equal", replace(own, selection=equal))):
        old, rng = namm.make("old", config), np.random.default_rng()
        params = jax.tree.map(lambda x: rng.uniform(0.5, 1.0, x.shape).astype(np.float32), old.params)  # noqa: B023
        replace(old, params=params).save_pretrained(tmp_path / name)
        new = continued(namm.make("new", own), str(tmp_path / name)).params.evolved
        np.testing.assert_array_equal(new["budgets"], params.evolved.get("budgets", np.zeros(SIZE)))
        np.testing.assert_array_equal(new["params"]["score"]["bias"], params.evolved["params"]["score"]["bias"])
    new = continued(namm.make("new", old.policy.config), str(tmp_path / "equal")).params.evolved
    assert "budgets" not in new
    for name in ("equal", "layer"):
        with pytest.raises(ValueError, match=f"has selection.budgets 'head'; expected 'head' here too, got '{name}'"):
            other = replace(own, selection=replace(equal, budgets=name))
            continued(namm.make("new", other), str(tmp_path / "own"))
