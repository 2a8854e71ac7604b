"""`namm evolve`: host, memory and tasks into the search, and its outcome into an artefact and a table."""

import functools
import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from rich.console import Console

from evolve.curriculum import Curriculum, Stage
from evolve.loop import Context, Evaluation, LoopConfig, RunResult
from evolve.loop import run as search
from evolve.mesh import check_population, gather, make_mesh, place, shard_population
from experiments.directions import Directions
from experiments.evaluate import Evaluator
from experiments.figures import draw_curves
from experiments.fitted import fitted
from experiments.objective import (
    FULL,
    Outcome,
    budgets,
    engine_for,
    score_recorded,
    score_streaming,
)
from experiments.prompts import PromptSource, TaskMix
from experiments.recordings import Record, RecordPool, spectrum_statistics, stack, stack_prompts
from experiments.records import CONTENTS, RUN, check_same, task_contents, write_records, write_whole
from experiments.references import print_references, write_references
from experiments.report import print_tables, write_tables
from experiments.run_config import RunConfig, StageConfig
from experiments.shares import descended
from experiments.tasks import Split
from experiments.tasks.encoding import Batch
from hosts.rollout import Schedule
from hosts.weights import Host, load_host
from namm.artefact import Memory, load, make, training_free
from namm.config import to_json
from namm.contract import Parameters
from namm.folder import CONFIG

START, RESULT = "start", "memory"
SAMPLES = 1_000_000  # of a task that a seed has for itself
TRACED = 4  # held-out prompts whose kept tokens are recorded, for the page


@dataclass
class StageRunner:
    """Scores populations on one stage's prompts."""

    config: RunConfig
    stage: StageConfig
    host: Host
    memory: Memory
    source: PromptSource = field(init=False)
    pool: RecordPool = field(init=False)

    def __post_init__(self) -> None:
        self.source = PromptSource(self.host, self.stage.mix)
        self.engine = engine_for(self.memory, self.source)
        self.pool = self.reads(self.config.use.mode == "recorded")
        self.mesh = make_mesh(self.config.model_devices)
        check_population(self.config.search.population, self.mesh)
        self.kept = self.config.use.kept(self.source.widths.context, self.memory.selection.widest)
        # a budget that cannot work is an error before any work
        budgets(self.config.use, self.source.batch("train", [0]), self.kept, self.memory.selection)
        self.schedule = Schedule(self.memory.interval, min(self.config.use.chunk, self.memory.interval), self.kept)
        self.params = place(self.host.params, self.mesh)
        score = self._recorded if self.config.use.mode == "recorded" else self._streaming
        self.sharded = shard_population(score, self.mesh)

    def reads(self, streams: bool, further: tuple[str, ...] = ()) -> RecordPool:
        """Prompts as the full cache reads and answers them; `streams` for what it read too, `further` tasks."""
        counts, config = self.config.prompts, self.config
        source = self.source
        if further:
            mix = TaskMix((*self.stage.tasks, *further), self.stage.length)
            source = PromptSource(self.host, mix, unanswered=True)
        kept_records = counts.pool + counts.validation + counts.batch
        at_once = min(counts.fresh or counts.batch, counts.batch)  # what a generation adds is read without filler
        settings = (config.use.chunk, kept_records, at_once, config.disk, streams)
        return RecordPool(self.engine, self.host.params, source, *settings)

    def _recorded(self, evolved: PyTree, params: Any, frozen: Any, stream: Any, prompt: Batch, budget: Any) -> Outcome:
        return score_recorded(self.engine, params, Parameters(evolved, frozen), stream, prompt, budget, self.kept)

    def _streaming(self, evolved: PyTree, params: Any, frozen: Any, prompt: Batch, budget: Any) -> Outcome:
        memory = Parameters(evolved, frozen)
        return score_streaming(self.engine, params, memory, prompt, budget, self.schedule, jax.random.key(0))

    def drawn(self, seed: int, generation: int) -> list[int]:
        """Training prompts of a generation: the fresh ones and a draw from the rest of the pool, alike per task."""
        tasks = len(self.stage.tasks)
        pool, draw = self.config.prompts.pool // tasks, self.config.prompts.draw // tasks
        fresh = min(max(self.config.prompts.fresh // tasks, int(self.config.prompts.fresh > 0)), draw)
        newest = pool + fresh * generation
        rng = np.random.default_rng(seed)
        older = rng.choice(np.arange(newest - pool, newest - fresh), draw - fresh, replace=False)
        samples = sorted(older.tolist()) + list(range(newest - fresh, newest))
        return [self.training(sample * tasks + task) for sample in samples for task in range(tasks)]

    def training(self, position: int, tasks: int | None = None) -> int:
        """The index of a training prompt, of the stage's tasks or of so many: every seed of a run has its own."""
        return self.config.seed * SAMPLES * (tasks or len(self.stage.tasks)) + position

    def score(self, evolved: PyTree, split: Split, indices: list[int]) -> tuple[Outcome, np.ndarray, np.ndarray]:
        """Outcome of a population [pop, prompt], and the full cache's exact matches and log-likelihoods [prompt]."""
        size = self.config.prompts.batch
        if len(indices) % size:
            raise ValueError(f"{len(indices)} prompts do not fill batches of {size}; make prompts.batch divide them")
        parts, references = [], []
        for begin in range(0, len(indices), size):
            records = self.pool.get(split, indices[begin : begin + size])
            samples = [index // len(self.stage.tasks) for index in indices[begin : begin + size]]
            parts.append(self._score_batch(evolved, records, samples))
            references += records
        outcome = Outcome(*(np.concatenate(leaf, axis=1) for leaf in zip(*parts, strict=True)))
        exact, grade = (np.array([getattr(one, name) for one in references]) for name in ("exact", "grade"))
        return outcome, exact, grade

    def _score_batch(self, evolved: PyTree, records: list[Record], samples: list[int]) -> Outcome:
        recorded = self.config.use.mode == "recorded"
        inputs = stack(records) if recorded else (stack_prompts(records),)
        shared = (*inputs, budgets(self.config.use, inputs[-1], self.kept, self.memory.selection, samples))
        pop = jax.tree.leaves(evolved)[0].shape[0]
        step = self.config.candidates or pop
        found = []
        for begin in range(0, pop, step):
            part = jax.tree.map(lambda x: x[begin : begin + step], evolved)  # noqa: B023 (used at once)
            found.append(gather(self.sharded(part, self.params, self.memory.params.frozen, *shared)))
        return Outcome(*(np.concatenate(leaf) for leaf in zip(*found, strict=True)))

    def evaluation(self, population: PyTree, context: Context) -> Evaluation:
        """What the search needs to know about a population."""
        outcome, exact, _ = self.score(population, "train", self.drawn(context.seed, context.generation))
        by_task = functools.partial(np.swapaxes, axis1=-1, axis2=-2)
        tasks = len(self.stage.tasks)
        scores, grades = (by_task(x.reshape(len(x), -1, tasks)) for x in (outcome.exact, outcome.grade))
        return Evaluation(
            scores=scores,
            reference=by_task(exact.reshape(-1, tasks)),
            grade=grades,
            kept=outcome.kept.mean(axis=1),
            info={"exact": float(outcome.exact.mean()), "grade": float(outcome.grade.mean())},
        )

    def validation(self, mean: PyTree) -> dict[str, float]:
        """The mean of the distribution on held-back prompts; what is kept costs as it does in the fitness."""
        found, weights = self.judge(mean, "validation", self.config.prompts.validation), self.config.fitness
        score = found["exact"] + weights.grade_weight * found["grade"] - weights.kept_weight * found["kept"]
        return {"score": score, **found}

    def judge(self, mean: PyTree, split: Split, prompts: int) -> dict[str, float]:
        """Means over the first prompts of a split, the full cache's beside them."""
        one = jax.tree.map(lambda x: jnp.repeat(x[None], self.mesh.shape["pop"], axis=0), mean)
        outcome, exact, grade = self.score(one, split, list(range(prompts)))
        return {
            "exact": float(outcome.exact[0].mean()),
            "grade": float(outcome.grade[0].mean()),
            "full_exact": float(exact.mean()),
            "full_grade": float(grade.mean()),
            "kept": float(outcome.kept[0].mean()),
        }


@dataclass(frozen=True)
class HostsRunner:
    """Scores populations on the prompts of all hosts of a stage; a task counts alike on whichever host."""

    runners: tuple[StageRunner, ...]

    def _mean(self, values: Sequence[Any]) -> Any:
        """Over hosts, by their numbers of tasks."""
        return np.average(values, axis=0, weights=[len(runner.stage.tasks) for runner in self.runners])

    def _means(self, found: Sequence[Mapping[str, float]]) -> dict[str, float]:
        return {name: float(self._mean([one[name] for one in found])) for name in found[0]}

    def evaluation(self, population: PyTree, context: Context) -> Evaluation:
        """What the search needs to know about a population."""
        found = [runner.evaluation(population, context) for runner in self.runners]
        return Evaluation(
            scores=np.concatenate([one.scores for one in found], axis=1),
            reference=np.concatenate([one.reference for one in found]),
            grade=np.concatenate([np.asarray(one.grade) for one in found], axis=1),
            kept=self._mean([one.kept for one in found]),
            info=self._means([one.info for one in found]),
        )

    def validation(self, mean: PyTree) -> dict[str, float]:
        """The mean of the distribution on held-back prompts (see `StageRunner.validation`)."""
        return self._means([runner.validation(mean) for runner in self.runners])

    def judge(self, mean: PyTree, split: Split, prompts: int) -> dict[str, float]:
        """Means over the first prompts of a split, so many of the first host and as many a task of the others."""
        tasks = len(self.runners[0].stage.tasks)
        counts = [prompts * len(runner.stage.tasks) // tasks for runner in self.runners]
        return self._means([r.judge(mean, split, count) for r, count in zip(self.runners, counts, strict=True)])


def runner_of_hosts(config: RunConfig, first: StageRunner) -> HostsRunner:
    """The stage of its first host's runner, on all of its hosts."""
    others = []
    for run in config.beside(first.stage):
        host = load_host(run.host, dtype=run.dtype)
        others.append(StageRunner(run, run.stages[0], host, first.memory))
    return HostsRunner((first, *others))


def warm_started(memory: Memory, weights: dict[str, float]) -> Memory:
    """The memory whose first score weighs these feature blocks."""
    params = dict(memory.params.evolved["params"])
    kernel = np.array(params["score"]["kernel"])
    for name, weight in weights.items():
        kernel[..., memory.policy.config.columns[name], :] += weight  # type: ignore[attr-defined]
    params["score"] = {**params["score"], "kernel": jnp.asarray(kernel)}
    return replace(memory, params=Parameters({**memory.params.evolved, "params": params}, memory.params.frozen))


def _first(config: RunConfig) -> Memory:
    """What a new run starts from, the spectrum's statistics aside."""
    new = make(config.name, config.memory)
    return warm_started(new, config.warm_start) if config.start is None else continued(new, config.start)


def continued(memory: Memory, start: str) -> Memory:
    """The memory whose first score is that of another, with its spectrum's statistics; blocks it lacks weigh nothing.

    One whose scorer and blocks are alike gives all of its score, whatever its kind. ValueError where another has no
    linear scorer, and for blocks, a spectrum or budgets that this one lacks.
    """
    other = load(start)
    ours, theirs = memory.policy.config, getattr(other.policy, "config", None)  # type: ignore[attr-defined]
    alike = theirs is not None and (theirs.scorer, theirs.features) == (ours.scorer, ours.features)
    if theirs is None or not (alike or theirs.scorer.kind == "linear"):
        raise ValueError(
            f"start is {start!r}; expected a trained memory with a linear scorer, or with the same scorer and features"
        )
    if theirs.scorer.sets not in ((), ours.scorer.sets):
        raise ValueError(f"start: {start!r} has scorer.sets {theirs.scorer.sets}; expected () or {ours.scorer.sets}")
    if not set(theirs.features) <= set(ours.features) or theirs.spectrum != ours.spectrum:
        raise ValueError(
            f"start: {start!r} has features {theirs.features} and spectrum {theirs.spectrum}; expected some of "
            f"{ours.features} and {ours.spectrum}"
        )
    if theirs.budgets not in ((), ours.budgets):
        own = theirs.selection.budgets
        raise ValueError(
            f"start: {start!r} has selection.budgets {own!r}; expected {own!r} here too, got {ours.selection.budgets!r}"
        )
    if not alike and ours.scorer.kind != "linear":
        raise ValueError(f"start: {start!r} has a linear scorer; expected memory.scorer.kind 'linear' here too")
    first = other.params.evolved["params"]
    if not alike:
        kernel = np.zeros((*ours.scorer.sets, ours.width, 1), np.float32)
        for name, columns in theirs.columns.items():
            kernel[..., ours.columns[name], :] = first["score"]["kernel"][..., columns, :]
        bias = np.broadcast_to(first["score"]["bias"], (*ours.scorer.sets, 1))
        first = {"score": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}
    evolved = {**memory.params.evolved, "params": first}
    if theirs.budgets:
        evolved["budgets"] = other.params.evolved["budgets"]
    return replace(memory, params=Parameters(evolved, other.params.frozen or memory.params.frozen))


def starting_runner(config: RunConfig, host: Host, folder: Path, console: Console) -> StageRunner:
    """The first stage with the memory that the search starts from: what an earlier call kept in the folder, or new.

    Zero weights, the warm start or a fitted score, and the spectrum's statistics over the un-evicted host's first
    prompts; or another memory's score and statistics.
    """
    kept = _start_kept(folder)
    memory = load(folder / START) if kept else _first(config)
    runner = StageRunner(config, config.stages[0], host, memory)
    if kept:
        return runner
    pool = runner.pool if runner.pool.streams else runner.reads(streams=True)
    if "spectrum" in config.memory.features and config.start is None:
        records = pool.get("train", [runner.training(i) for i in range(config.prompts.batch)])
        runner.memory = replace(memory, params=Parameters(memory.params.evolved, spectrum_statistics(records)))
    if config.fit_tasks:
        pool = runner.reads(streams=True, further=config.fit_tasks)
    size, tasks = config.prompts.batch, len(pool.source.tasks)

    def batches(what: str, count: int) -> Iterator[list[Record]]:
        indices = [runner.training(i, tasks) for i in range(count)]
        for begin in range(0, count, size):
            yield pool.get("train", indices[begin : begin + size])
            console.print(f"{what}: {begin + size} of {count} prompts")

    if config.fit:
        passes = itertools.count(1)

        def again() -> Iterator[list[Record]]:
            return batches("Fit" if (number := next(passes)) == 1 else f"Fit, pass {number}", config.fit)

        how = config.fit_share, config.fit_read, config.use.least(pool.source.widths.context)
        runner.memory = fitted(runner.memory, runner.engine, runner.params, again, *how)
    if config.descent:
        prompts, budgets = batches("Shares", config.descent), config.use.each
        runner.memory = descended(runner.memory, runner.engine, runner.params, prompts, budgets, console.print)
    return runner


def _start_kept(folder: Path) -> bool:
    return (folder / START / CONFIG).is_file()  # written last


def writes() -> bool:
    """Of several processes, which share one folder, the first writes."""
    return jax.process_index() == 0


def train(config: RunConfig, folder: Path, console: Console, in_pieces: bool = False) -> Memory:
    """Search, save the best validated mean as an artefact, compare it with the rivals on held-out prompts.

    in_pieces: a search that its time limit ended is not compared yet; the next call goes on with it.
    """
    begin = time.monotonic()
    check_goes_on(config, folder)
    console.print(f"Host {config.host}: loading")
    host = load_host(config.host, dtype=config.dtype, rope=config.rope)
    found = evolve_memory(config, host, folder, console)
    if not writes():
        return found.memory
    path = folder / RESULT
    found.memory.save_pretrained(path)
    draw_curves(found.result.history, folder / "curves.png", config.name)
    if found.result.stopped == "interrupted" or (in_pieces and found.result.stopped == "time limit"):
        return found.memory
    console.print(f"Evolved memory: {path} ({time.monotonic() - begin:.0f} s). Comparing on held-out prompts")
    compare(config, host, found.start, found.memory, folder, console)
    for other in found.runner().runners[1:]:
        console.print(f"The same on {other.config.host}")
        apart = folder / Path(other.config.host).name
        apart.mkdir(exist_ok=True)
        compare(other.config, other.host, found.start, found.memory, apart, console)
    console.print(f"Done in {time.monotonic() - begin:.0f} s. Use it with namm.load({str(path)!r})")
    return found.memory


class Found(NamedTuple):
    """A search's outcome: its best validated mean, and what makes the runner of its last stage."""

    start: Memory
    memory: Memory
    result: RunResult
    runner: Callable[[], HostsRunner]


def evolve_memory(config: RunConfig, host: Host, folder: Path, console: Console) -> Found:
    """The search alone, going on from the folder's newest checkpoint.

    Nothing is written before the first stage's hosts and prompts stand.
    """
    first = starting_runner(config, host, folder, console)
    start = first.memory

    @functools.cache
    def runner(stage: int) -> HostsRunner:
        main = StageRunner(config, config.stages[stage], host, start) if stage else first
        return runner_of_hosts(config, main)

    runner(0)
    for stage in config.stages[1:]:
        PromptSource(host, stage.mix)  # a mistake in a later stage is an error before any work
    if writes():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RUN, json.dumps(settings_of(config), indent=2) + "\n")
        if not _start_kept(folder):
            start.save_pretrained(folder / START)
    stages = tuple(Stage(f"stage-{i + 1}", s.generations, {"index": i}) for i, s in enumerate(config.stages))
    moved = Directions(config.directions, config.memory.scorer, start.params.evolved)
    console.print(f"Search: {sum(x.size for x in jax.tree.leaves(moved.origin))} parameters, start validated first")

    def at(context: Context) -> HostsRunner:
        return runner(context.stage.payload["index"])

    result = search(
        moved.origin,
        lambda population, context: at(context).evaluation(moved.parameters(population), context),
        Curriculum(stages),
        folder / "search",
        search=config.search,
        fitness_config=config.fitness,
        config=LoopConfig(validate_every=config.validate_every, seed=config.seed, time_limit=config.time_limit),
        validate=lambda mean, context: at(context).validation(moved.parameters(mean)),
        fingerprint=_fingerprint(config),
        report_to=config.report_to,  # type: ignore[arg-type]
        console=console,
    )
    params = Parameters(moved.parameters(result.best_mean), start.params.frozen)
    memory = replace(start, params=params, provenance=provenance(config, result))
    return Found(start, memory, result, lambda: runner(len(stages) - 1))


# May change from one start to the next.
FREE = ("time_limit", "report_to", "policies", "validate_every", "candidates", "disk")
GROWING = ("name", "stages", "prompts")  # may change where later stages go on from earlier ones


def settings_of(config: RunConfig) -> dict[str, Any]:
    """A run for its folder, with what its tasks that are files of one's own hold."""
    tasks = [name for stage in config.stages for part in (stage, *stage.beside) for name in part.tasks]
    tasks += config.fit_tasks
    return json.loads(json.dumps(config.to_json() | task_contents(tasks)))


def check_goes_on(config: RunConfig, folder: Path) -> None:
    """A folder's run may be resumed, given more generations in its last stage, or followed by further stages.

    ValueError, naming the field, for other stages and prompts, and where a task file is not what it was.
    """
    path = folder / RUN
    if not path.is_file():
        return
    before, now = json.loads(path.read_text()), settings_of(config)
    done, wanted = before["stages"], now["stages"]
    last = wanted[len(done) - 1] if len(wanted) >= len(done) else {}
    same_last = {**done[-1], "generations": None} == {**last, "generations": None}
    if done[:-1] != wanted[: len(done) - 1] or not same_last or last["generations"] < done[-1]["generations"]:
        raise ValueError(
            f"stages: {path} has {done}, got {wanted}; expected those, with more generations in the last one or "
            "further stages behind it. Choose another folder for another run"
        )
    changed = [name for name in GROWING if before[name] != now[name] and name != "stages"]
    if changed and len(wanted) == len(done):
        raise ValueError(f"{changed[0]}: {path} has {before[changed[0]]}, got {now[changed[0]]}; choose another folder")
    held = {name: what for name, what in before.items() if name.startswith(CONTENTS)}
    check_same(held, {name: now.get(name) for name in held}, path)


def _fingerprint(config: RunConfig) -> dict[str, Any]:
    """What must be alike for a resumed run to mean anything; `check_goes_on` sees to the growing part."""
    return {k: v for k, v in json.loads(json.dumps(config.to_json())).items() if k not in FREE + GROWING}


def provenance(config: RunConfig, result: RunResult) -> dict[str, Any]:
    """Where a memory came from, for its config.json."""
    return {
        "host": config.host,
        "stages": [_stage(stage) for stage in config.stages],
        "mode": config.use.mode,
        "budget": config.use.budget,
        "search": to_json(config.search),
        **({} if config.directions == "own" else {"directions": config.directions}),
        **({"start": config.start} if config.start else {}),
        **{name: count for name in ("fit", "descent") if (count := getattr(config, name))},
        **({"fit_tasks": list(config.fit_tasks)} if config.fit_tasks else {}),
        "generations": result.state.generation,
        "best_generation": int(result.state.best_generation),
        "seed": config.seed,
        "commit": commit(),
    }


def _stage(stage: StageConfig) -> dict[str, Any]:
    """A stage for a provenance, further hosts only where there are some."""
    described = json.loads(json.dumps(asdict(stage)))
    return described if stage.beside else {k: v for k, v in described.items() if k != "beside"}


def commit() -> str | None:
    """The source's git commit where it runs from a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def rivals(config: RunConfig) -> list[Memory]:
    """The hand-written policies, with the evolved memory's own protected tokens and interval."""
    selection = config.memory.selection
    return [
        training_free(name, config.memory.interval, selection.recent, selection.sinks) for name in config.policies
    ]


def counted(console: Console, total: int, mode: str) -> Callable[[int], None]:
    """A line as prompts are done."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        console.print(f"{mode}: {done} of {total} held-out prompts")

    return advance


def compare(
    config: RunConfig, host: Host, start: Memory, memory: Memory, folder: Path, console: Console
) -> None:
    """The final table: the run's own scoring mode on all rivals, then streaming for the best of them."""
    source = PromptSource(host, config.stages[-1].mix)
    evolved, begun = replace(memory, name="evolved"), replace(start, name="start")
    counts = config.prompts
    main = Evaluator(source, [evolved, begun, *rivals(config)], config.use, counts.batch)
    found = main.run("test", counts.held_out, counted(console, counts.held_out, config.use.mode), TRACED)
    table = main.summary(found.verdicts, "evolved")
    print_tables(console, table, found.verdicts)
    write_references(folder, [source], "test", counts.held_out)
    print_references(console, folder)
    write_records(folder, *found)
    write_tables(table, found.verdicts, folder)
    if config.use.mode == "recorded" and counts.streaming:
        best = sorted((s for s in table if s.memory not in ("evolved", "start", FULL)), key=lambda s: -s.score)[:3]
        chosen = {s.memory for s in best} | {FULL}
        use = replace(config.use, mode="streaming")
        few = [evolved, *(m for m in rivals(config) if m.name in chosen)]
        live = Evaluator(source, few, use, counts.batch)
        more = live.run("test", counts.streaming, counted(console, counts.streaming, "streaming"), TRACED)
        streamed = live.summary(more.verdicts, "evolved")
        print_tables(console, streamed, more.verdicts)
        verdicts = found.verdicts + more.verdicts
        write_records(folder, verdicts, found.traces + more.traces)
        write_tables(table + streamed, verdicts, folder)
