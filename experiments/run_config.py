"""One run of the search as data: host, memory, tasks, how candidates are scored. Saved beside every result."""

import typing
from dataclasses import asdict, dataclass, field, replace
from math import gcd
from pathlib import Path
from typing import Any, Literal

from evolve.fitness import FitnessConfig
from evolve.strategy import SearchConfig
from experiments.directions import DirectionName
from experiments.objective import UseConfig
from experiments.prompts import TaskMix
from hosts.spec import RopeSpec
from namm.config import MemoryConfig
from namm.features import blocks
from namm.policies import POLICIES

Precision = Literal["float32", "bfloat16", "mixed"]


@dataclass(frozen=True)
class BesideConfig:
    """A further host that scores every candidate too, on tasks of its own at a prompt length (tokens)."""

    host: str
    tasks: tuple[str, ...]
    length: int


@dataclass(frozen=True)
class StageConfig:
    """A stretch of the curriculum: tasks at a prompt length (tokens) for a number of generations.

    beside: further hosts. A task counts alike whichever host answers it, and has as many prompts.
    """

    tasks: tuple[str, ...]
    length: int
    generations: int
    beside: tuple[BesideConfig, ...] = ()

    def __post_init__(self) -> None:
        TaskMix(self.tasks, self.length)  # its own errors
        if self.generations < 1:
            raise ValueError(f"stages: generations is {self.generations}; expected 1 or more")

    @property
    def mix(self) -> TaskMix:
        return TaskMix(self.tasks, self.length)


@dataclass(frozen=True)
class PromptConfig:
    """How many prompts are used where; all counts are prompts.

    draw: scored in every generation, alike for all candidates. pool: newest training prompts that are drawn from.
    fresh: new ones that enter the pool each generation (0: it stays as it is). validation: for choosing the best mean.
    held_out: for the final table, in the scoring mode of the run. streaming: for the final table's streaming part (0:
    none; unused where the run itself is streaming). batch: rows a call.
    """

    draw: int = 12
    pool: int = 48
    fresh: int = 4
    validation: int = 24
    held_out: int = 104
    streaming: int = 24
    batch: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < (least := int(name not in ("streaming", "fresh"))):
                raise ValueError(f"prompts.{name} is {value}; expected {least} or more")
        if not self.fresh <= self.draw <= self.pool:
            raise ValueError(
                f"prompts.fresh {self.fresh}, draw {self.draw}, pool {self.pool}; expected fresh <= draw <= pool"
            )


@dataclass(frozen=True)
class RunConfig:
    """Everything `namm evolve` needs.

    name: of the run and of the memory it makes. host: see `namm hosts`; that of the spectrum's statistics and of the
    fit, where a stage has further ones. warm_start: weight of a feature block in the first score (zero weights
    otherwise). start: a memory with a linear scorer, as `namm.load` takes it, whose score is the first one instead;
    blocks that it lacks weigh nothing; or one with the same scorer and feature blocks, whatever its kind. fit: training
    prompts that the first score is fitted to instead, by what their questions and answers look at (see
    `experiments.fitted`). fit_tasks: further tasks of the fit alone, as many prompts of each as of the first stage's;
    `instructions/*` among them. fit_read: shares of a context after which the fit judges its tokens so far, for
    memories that evict while they read. fit_share: of the fit's tokens that then score above the threshold of a memory
    that has one. descent: training prompts on which the first shares in the budget then descend through the host (see
    `experiments.shares`), fit_tasks among them. directions: of a memory with `scorer.sets`, what the search moves: each
    set by itself, what all heads of a layer, or all heads, change by, or the shares in the budget alone (see
    `experiments.directions`). candidates: scored at once (memory bounds it; 0 = all). policies: hand-written rivals in
    the final table. disk: GiB of prompts, as the full cache read them, that are kept in the cache folder for further
    runs (SmolLM2: 46 KB a token and what the memory carries); 0 for none. dtype: of the hosts' parameters, see
    `hosts.weights.load_host`. seed: of the search and of its training prompts. time_limit: seconds of search; what
    validated best until then is saved and compared, and the same command goes on.
    """

    name: str
    host: str
    stages: tuple[StageConfig, ...]
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    warm_start: dict[str, float] = field(default_factory=dict)
    start: str | None = None
    fit: int = 0
    fit_tasks: tuple[str, ...] = ()
    fit_read: tuple[float, ...] = (1.0,)
    fit_share: float = 0.25
    descent: int = 0
    use: UseConfig = field(default_factory=UseConfig)
    directions: DirectionName = "own"
    search: SearchConfig = field(default_factory=SearchConfig)
    fitness: FitnessConfig = field(default_factory=FitnessConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    candidates: int = 0
    validate_every: int = 4
    policies: tuple[str, ...] = tuple(POLICIES)
    rope: RopeSpec | None = None
    dtype: Precision = "float32"
    model_devices: int = 1
    seed: int = 0
    disk: float = 0.0
    time_limit: float | None = None
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages is empty; expected at least one stage")
        if self.dtype not in typing.get_args(Precision):
            raise ValueError(f"dtype is {self.dtype!r}; expected one of {', '.join(typing.get_args(Precision))}")
        unknown = [name for name in self.policies if name not in POLICIES]
        if unknown:
            raise ValueError(f"policies has {unknown}; expected some of {', '.join(POLICIES)}")
        for stage in self.stages:
            for name, count in (("draw", self.prompts.draw), ("pool", self.prompts.pool)):
                if count % len(stage.tasks):
                    raise ValueError(
                        f"prompts.{name} is {count}; expected a multiple of the {len(stage.tasks)} tasks of a stage"
                    )
        for name in self.warm_start:
            if name not in self.memory.features or blocks(self.memory.spectrum)[name].width != 1:
                raise ValueError(
                    f"warm_start names {name!r}; expected feature blocks of width 1 among {self.memory.features}"
                )
        if self.start is not None and self.warm_start:
            raise ValueError(f"start is {self.start!r}; expected no warm_start beside it, got {self.warm_start}")
        if self.fit and (self.warm_start or self.start or self.memory.scorer.kind == "bam"):
            raise ValueError(
                f"fit is {self.fit}; expected neither start nor warm_start beside it, and memory.scorer.kind 'linear' "
                "or 'mlp'"
            )
        for name, count in (("fit", self.fit), ("descent", self.descent)):
            if count < 0 or count % self.prompts.batch:
                raise ValueError(f"{name} is {count}; expected 0 or a multiple of prompts.batch {self.prompts.batch}")
        if self.fit_tasks and not (self.fit or self.descent):
            raise ValueError(f"fit_tasks is {self.fit_tasks}; expected none where fit and descent are 0")
        if self.descent and not self.memory.budgets:
            raise ValueError(
                f"descent is {self.descent}; expected memory.selection.budgets 'layer' or 'head' with it, and "
                "memory.scorer.sets"
            )
        if not self.fit_read or not all(0.0 < share <= 1.0 for share in self.fit_read):
            raise ValueError(f"fit_read is {self.fit_read}; expected shares of a context, above 0 and at most 1")
        if not 0.0 < self.fit_share < 1.0:
            raise ValueError(f"fit_share is {self.fit_share}; expected a share of the tokens, between 0 and 1")
        if self.directions not in (known := typing.get_args(DirectionName)):
            raise ValueError(f"directions is {self.directions!r}; expected one of {', '.join(known)}")
        if self.directions != "own" and not self.memory.scorer.sets:
            raise ValueError(f"directions is {self.directions!r}; expected 'own' where memory.scorer.sets is ()")
        if self.directions == "budgets" and not self.memory.budgets:
            raise ValueError("directions is 'budgets'; expected memory.selection.budgets 'layer' or 'head' with it")
        if self.candidates and self.search.population % self.candidates:
            raise ValueError(
                f"candidates is {self.candidates}; expected a divisor of search.population {self.search.population}"
            )
        if self.disk < 0:
            raise ValueError(f"disk is {self.disk}; expected GiB, 0 or more")
        self._check_interval()
        self._check_beside()

    def beside(self, stage: StageConfig) -> tuple["RunConfig", ...]:
        """A run of one stage for every further host, with as many prompts a task as the stage itself has."""
        runs = []
        for other in stage.beside:
            counts = {
                name: count * len(other.tasks) // len(stage.tasks)
                for name, count in asdict(self.prompts).items()
                if name != "batch"
            }
            scored = (counts[name] for name in ("draw", "validation", "held_out", "streaming"))
            prompts = PromptConfig(**counts, batch=gcd(self.prompts.batch, *scored))
            alone = StageConfig(other.tasks, other.length, stage.generations)
            own = {"fit": 0, "fit_tasks": (), "descent": 0}
            runs.append(replace(self, host=other.host, rope=None, stages=(alone,), prompts=prompts, **own))
        return tuple(runs)

    def scored(self, stage: StageConfig) -> int:
        """Prompts of all hosts that a generation scores every candidate on."""
        return self.prompts.draw + sum(run.prompts.draw for run in self.beside(stage))

    def _check_beside(self) -> None:
        """Errors of the further hosts before any work."""
        for stage in self.stages:
            self.beside(stage)
            names = [Path(host).name for host in (self.host, *(other.host for other in stage.beside))]
            if len(set(names)) < len(names):
                raise ValueError(f"stages: hosts of one stage are {', '.join(names)}; expected different ones")
            if stage.beside and self.memory.scorer.sets:
                raise ValueError(
                    f"memory.scorer.sets is {self.memory.scorer.sets}; expected () where further hosts, which have "
                    "layers and heads of their own, stand beside the first"
                )

    def _check_interval(self) -> None:
        interval, chunk = self.memory.interval, self.use.chunk
        if self.use.mode == "streaming" and interval % min(chunk, interval):
            raise ValueError(f"use.chunk is {chunk}; expected a divisor of memory.interval {interval}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
