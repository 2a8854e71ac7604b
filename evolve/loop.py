"""The generation loop: ask, evaluate, tell, validate, save. The evaluation function is an argument."""

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree
from rich.console import Console

from evolve.checkpoints import Checkpoints, RunState
from evolve.curriculum import Curriculum, Stage
from evolve.fitness import FitnessConfig, fitness
from evolve.mesh import agree
from evolve.strategy import SearchConfig, Strategy, make_strategy
from evolve.tracking import Reporter, Tracking


@dataclass(frozen=True)
class LoopConfig:
    """How long to search, and how often to look and save."""

    generations: int | None = None  # None: those of the curriculum; beyond them, the last stage goes on
    validate_every: int = 10
    checkpoint_every: int = 1
    keep: int = (
        3  # checkpoints besides that of the best validated generation; two, so that a torn one has one before it
    )
    seed: int = 0
    time_limit: float | None = None  # seconds of this process, after which the generation at work is the last

    def __post_init__(self):
        for name, least in {"generations": 1, "validate_every": 1, "checkpoint_every": 1, "keep": 2}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: got {value}, expected at least {least}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed: got {self.seed}, expected 0 to 2**32 - 1")
        if self.time_limit is not None and not self.time_limit > 0:
            raise ValueError(f"time_limit: got {self.time_limit}, expected a positive number of seconds")


@dataclass(frozen=True)
class Context:
    """What an evaluation may depend on besides the candidates."""

    generation: int  # generations completed before it
    stage: Stage
    seed: int  # a function of the run's seed and the generation: draw the prompts from it, the same for all candidates


@dataclass(frozen=True)
class Evaluation:
    """What `evolve.fitness.fitness` takes, and scalars to log."""

    scores: Float[Array | np.ndarray, "pop task sample"]
    reference: Float[Array | np.ndarray, "task sample"]
    grade: Float[Array | np.ndarray, "pop task sample"] | None = None
    kept: Float[Array | np.ndarray, " pop"] | None = None
    info: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunResult:
    """Where a run stands: `best_mean` is what to ship (the last mean if nothing was validated)."""

    state: RunState
    mean: PyTree
    best_mean: PyTree
    best_value: float
    history: list[dict[str, Any]]
    stopped: Literal["finished", "time limit", "interrupted"]


Evaluate = Callable[[PyTree, Context], Evaluation]
Validate = Callable[[PyTree, Context], Mapping[str, float]]


def run(
    mean: PyTree,
    evaluate: Evaluate,
    curriculum: Curriculum,
    folder: str | os.PathLike,
    *,
    search: SearchConfig | None = None,
    fitness_config: FitnessConfig | None = None,
    config: LoopConfig | None = None,
    validate: Validate | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    report_to: Sequence[Reporter] = (),
    console: Console | None = None,
) -> RunResult:
    """Search from `mean` in `folder`, going on from its newest checkpoint if there is one.

    `evaluate(population, context)` scores candidates (a pytree with a leading pop axis). `validate(mean, context)`
    returns scalars of which "score" is maximised; it is called on the mean of the distribution at the start, every
    `validate_every` generations, when a stage begins and at the end. `fingerprint` is whatever else must be the same
    for a resumed run to mean anything; a folder made with another one, seed or search is a ValueError.

    Ctrl-C and the time limit end the run cleanly with everything saved.
    """
    search, fitness_config, config = search or SearchConfig(), fitness_config or FitnessConfig(), config or LoopConfig()
    strategy = make_strategy(search, mean)
    made_with = {"search": dataclasses.asdict(search), "fitness": dataclasses.asdict(fitness_config)}
    made_with |= {"seed": config.seed, "caller": dict(fingerprint or {})}
    checkpoints = Checkpoints(folder, made_with, config.keep)
    fresh = _fresh(strategy, mean, config.seed)
    restored = checkpoints.restore(fresh)
    loop = _Loop(strategy, evaluate, validate, curriculum, fitness_config, config, checkpoints)
    state = restored or fresh
    tracking = Tracking(
        folder, made_with, total=loop.total, done=-1 if restored is None else state.generation, report_to=report_to,
        console=console, writes=jax.process_index() == 0,
    )  # fmt: skip
    try:
        state, stopped = loop.go(state, tracking, new=restored is None)
    finally:
        tracking.close()
        checkpoints.close()
    if stopped != "finished":
        tracking.say(
            f"Stopped after generation {state.generation} of {loop.total} ({stopped}); everything is saved in "
            f"{Path(folder)}. Run the same command with the same folder to go on."
        )
    last = strategy.mean(state.strategy)
    best = last if validate is None else state.best_mean
    return RunResult(state, last, best, state.best_value, tracking.history, stopped)


def data_seed(seed: int, generation: int) -> int:
    """The seed of a generation's data: the same after a resume, unrelated between generations."""
    return int(np.random.SeedSequence((seed, generation)).generate_state(1)[0])


def _fresh(strategy: Strategy, mean: PyTree, seed: int) -> RunState:
    init_key, ask_key = jax.random.split(jax.random.key(seed))
    state = strategy.init(init_key, mean)
    return RunState(state, jax.random.key_data(ask_key), strategy.mean(state), -np.inf, 0, 0, 0)


@dataclass
class _Loop:
    strategy: Strategy
    evaluate: Evaluate
    validate: Validate | None
    curriculum: Curriculum
    fitness_config: FitnessConfig
    config: LoopConfig
    checkpoints: Checkpoints

    @property
    def total(self) -> int:
        return self.config.generations or self.curriculum.generations

    def go(
        self, state: RunState, tracking: Tracking, new: bool
    ) -> tuple[RunState, Literal["finished", "time limit", "interrupted"]]:
        start, first = time.monotonic(), state.generation
        try:
            if new:
                state, record = self._validated(state)
                tracking.write({"generation": 0, "stage": self.curriculum.stages[0].name, **record})
                self.checkpoints.save(state)
            elif state.generation < self.total and self.curriculum.index_at(state.generation) != state.stage:
                # the curriculum ended here and was lengthened since
                state, record = self._maybe_validated(state)
                tracking.write(
                    {"generation": state.generation, "stage": self.curriculum.stages[state.stage].name, **record}
                )
            while state.generation < self.total:
                new_state, record = self._generation(state)
                elapsed = time.monotonic() - start
                left = elapsed / (new_state.generation - first) * (self.total - new_state.generation)
                self.checkpoints.wait()  # a line stands only where the state before it is safe
                tracking.write(record, left)
                state = new_state
                out_of_time = agree(self.config.time_limit is not None and elapsed > self.config.time_limit)
                last = out_of_time or state.generation == self.total
                if last or state.generation % self.config.checkpoint_every == 0:
                    self.checkpoints.save(state)
                if out_of_time and state.generation < self.total:
                    return state, "time limit"
        except KeyboardInterrupt:
            self.checkpoints.wait()
            if state.generation > 0 and state.generation not in self.checkpoints.steps():
                self.checkpoints.save(state)
            return state, "interrupted"
        return state, "finished"

    def _generation(self, state: RunState) -> tuple[RunState, dict[str, Any]]:
        """One generation, and the validation that is due after it."""
        start, generation = time.monotonic(), state.generation
        context = self._context(generation)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), generation)
        population, asked = self.strategy.ask(key, state.strategy)
        found = self.evaluate(population, context)
        values = fitness(found.scores, found.reference, found.grade, found.kept, self.fitness_config)
        told, metrics = self.strategy.tell(population, values, asked)
        seconds = time.monotonic() - start
        record = {"generation": generation + 1, "stage": context.stage.name, **metrics}
        if found.kept is not None:
            record["kept"] = float(np.mean(np.asarray(found.kept)))
        record |= {name: float(value) for name, value in found.info.items()}
        record |= {"seconds": seconds, "candidates_per_second": len(values) / seconds}
        state = state._replace(strategy=told, generation=generation + 1)
        state, validation = self._maybe_validated(state)
        return state, record | validation

    def _maybe_validated(self, state: RunState) -> tuple[RunState, dict[str, Any]]:
        done, finished = state.generation, state.generation == self.total
        stage = state.stage if finished else self.curriculum.index_at(done)
        if stage != state.stage:  # scores of different stages are not comparable
            return self._validated(state._replace(stage=stage, best_value=-np.inf))
        due = finished or done % self.config.validate_every == 0
        return self._validated(state) if due else (state, {})

    def _validated(self, state: RunState) -> tuple[RunState, dict[str, Any]]:
        """Validate the mean; keep it if it is the best of this stage."""
        if self.validate is None:
            return state, {}
        context = dataclasses.replace(self._context(state.generation), stage=self.curriculum.stages[state.stage])
        mean = self.strategy.mean(state.strategy)
        found = {name: float(value) for name, value in self.validate(mean, context).items()}
        if "score" not in found:
            raise ValueError(f"validate: got {sorted(found)}, expected a mapping with 'score', which is maximised")
        value = found.pop("score")
        if not np.isfinite(value):
            warnings.warn(f"the validation score after generation {state.generation} is {value}", stacklevel=2)
        elif value > state.best_value:
            state = state._replace(best_value=value, best_mean=mean, best_generation=state.generation)
        record = {"validation": value, "validation_stage": context.stage.name, "best_validation": state.best_value}
        return state, record | {f"validation_{name}": number for name, number in found.items()}

    def _context(self, generation: int) -> Context:
        return Context(generation, self.curriculum.stage_at(generation), data_seed(self.config.seed, generation))
