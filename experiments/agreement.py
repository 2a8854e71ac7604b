"""`namm agreement`: do candidates rank alike when they evict from a record and when they evict while they read?"""

import itertools
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from experiments.objective import UseConfig
from experiments.prompts import budget_label
from experiments.records import check_settings, memory_contents, task_contents, write_whole
from experiments.run_config import PromptConfig, RunConfig, StageConfig
from experiments.training import StageRunner
from hosts.weights import Host, load_host
from namm.artefact import Memory, load
from namm.model import NammPolicy

Mode = Literal["recorded", "streaming"]
SETTINGS, ROWS = "settings.json", "agreement.json"


@dataclass(frozen=True)
class AgreementConfig:
    """Candidates around a trained memory, scored both ways on the same prompts; the same command again goes on.

    memory: a trained memory; candidates are its parameters and normal steps of `spread` around them. length, budget:
    every pair is a row. prompts: of the validation split, alike per task. interval: tokens between updates while
    reading; default the memory's own.
    """

    memory: str = "smollm2"
    host: str = "smollm2-135m"
    task: tuple[str, ...] = ("niah-single", "passkey")
    length: tuple[int, ...] = (256, 512)
    budget: tuple[float, ...] = (0.25, 0.125)
    candidates: int = 12
    spread: float = 0.3
    prompts: int = 12
    interval: int | None = None
    seed: int = 0
    folder: Path = Path("runs/agreement")

    def __post_init__(self) -> None:
        if self.candidates < 4 or self.prompts < 1 or not self.spread > 0:
            raise ValueError(
                f"candidates is {self.candidates}, prompts {self.prompts}, spread {self.spread}; expected 4 or more "
                "candidates, a prompt and a positive spread"
            )


@dataclass(frozen=True)
class Agreement:
    """One length and budget. rank, low, high: Spearman's correlation of the mean log-likelihoods, 95% over candidates.

    exact_rank: of the shares of exact answers (None where one way tells no candidates apart). recorded, streaming:
    exact answers of the memory itself. best: place, from 1, that streaming gives to the candidate that recorded scoring
    likes best. seconds: of either way, and of reading the records, compiled programs alone.
    """

    length: int
    budget: float
    rank: float
    low: float
    high: float
    exact_rank: float | None
    recorded: float
    streaming: float
    best: int
    recorded_seconds: float
    streaming_seconds: float
    reading_seconds: float


def agreement(config: AgreementConfig, console: Console) -> list[Agreement]:
    """Score what the folder does not hold yet, print a table, write agreement.json."""
    memory = load(config.memory)
    if not isinstance(memory.policy, NammPolicy):
        raise ValueError(f"memory is {config.memory!r}, a training-free policy; expected a trained memory")
    free = ("length", "budget", "folder")
    settings = {k: str(v) for k, v in asdict(config).items() if k not in free}
    settings |= memory_contents([memory]) | task_contents(config.task)
    check_settings(config.folder, settings, SETTINGS, (ROWS,))
    config.folder.mkdir(parents=True, exist_ok=True)
    write_whole(config.folder / SETTINGS, json.dumps(settings) + "\n")
    path = config.folder / ROWS
    rows = [Agreement(**row) for row in json.loads(path.read_text())] if path.is_file() else []
    host = load_host(config.host)
    for length, budget in itertools.product(config.length, config.budget):
        if not any((row.length, row.budget) == (length, budget) for row in rows):
            rows.append(agree(config, memory, host, length, budget))
            write_whole(path, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
            console.print(f"{length} tokens, {budget_label(budget)}: rank correlation {rows[-1].rank:.3f}")
    console.print(agreement_table(f"{config.candidates} candidates, {config.prompts} prompts", rows))
    return rows


def agree(config: AgreementConfig, memory: Memory, host: Host, length: int, budget: float) -> Agreement:
    """Both ways at one length and budget."""
    population = candidates(memory, config.candidates, config.spread, config.seed)
    indices = list(range(config.prompts))
    recorded = _runner(config, memory, host, length, budget, "recorded")
    begin = time.perf_counter()
    recorded.pool.get("validation", indices)
    reading = time.perf_counter() - begin
    streaming = _runner(config, memory, host, length, budget, "streaming")
    streaming.pool = recorded.pool
    found: dict[str, Any] = {}
    for name, runner in (("recorded", recorded), ("streaming", streaming)):
        runner.score(population, "validation", indices)  # compiles
        begin = time.perf_counter()
        outcome = runner.score(population, "validation", indices)[0]
        found[name] = np.asarray(outcome.grade).mean(1), np.asarray(outcome.exact).mean(1)
        found[f"{name}_seconds"] = time.perf_counter() - begin
    (first, exact), (second, live) = found["recorded"], found["streaming"]
    rank, low, high = rank_correlation(first, second)
    told_apart = np.ptp(exact) > 0 and np.ptp(live) > 0
    return Agreement(
        length=length,
        budget=budget,
        rank=rank,
        low=low,
        high=high,
        exact_rank=_spearman(exact, live) if told_apart else None,
        recorded=float(exact[0]),
        streaming=float(live[0]),
        best=1 + int(np.sum(second > second[np.argmax(first)])),
        recorded_seconds=found["recorded_seconds"],
        streaming_seconds=found["streaming_seconds"],
        reading_seconds=reading,
    )


def candidates(memory: Memory, count: int, spread: float, seed: int) -> Any:
    """The memory's parameters first, then normal steps around them; leaves [count, ...]."""
    rng = np.random.default_rng(seed)

    def around(leaf: Any) -> jax.Array:
        steps = spread * rng.normal(size=(count, *leaf.shape))
        steps[0] = 0.0
        return jnp.asarray(leaf + steps, jnp.float32)

    return jax.tree.map(around, memory.params.evolved)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Spearman's correlation with its 95% interval (Bonett and Wright, Psychometrika 65, 2000)."""
    rank = _spearman(first, second)
    if abs(rank) == 1.0:
        return rank, rank, rank
    half = 1.96 * np.sqrt((1 + rank**2 / 2) / (len(first) - 3))
    return rank, float(np.tanh(np.arctanh(rank) - half)), float(np.tanh(np.arctanh(rank) + half))


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    found: Any = spearmanr(first, second)
    return float(np.clip(found.statistic, -1.0, 1.0))


def _runner(
    config: AgreementConfig, memory: Memory, host: Host, length: int, budget: float, mode: Mode
) -> StageRunner:
    policy: Any = memory.policy
    interval = config.interval or memory.interval
    stage, count = StageConfig(config.task, length, 1), config.prompts
    run = RunConfig(
        name=memory.name,
        host=config.host,
        stages=(stage,),
        memory=replace(policy.config, interval=interval),
        use=UseConfig(mode, budget, chunk=min(128, interval)),
        prompts=PromptConfig(count, count, min(4, count), count, count, 0, count),
    )
    return StageRunner(run, stage, host, replace(memory, interval=interval))


def agreement_table(title: str, rows: list[Agreement]) -> Table:
    """A line a length and budget."""
    names = ("length", "budget", "rank correlation, 95%", "of exact", "its exact, recorded", "streaming")
    times = ("best recorded is", "recorded", "streaming", "reading once")
    table = Table(*names, *times, title=title, box=SIMPLE)
    for row in rows:
        exact = "" if row.exact_rank is None else f"{row.exact_rank:.2f}"
        table.add_row(
            str(row.length), budget_label(row.budget), f"{row.rank:.2f} ({row.low:.2f} to {row.high:.2f})", exact,
            f"{row.recorded:.3f}", f"{row.streaming:.3f}", f"no. {row.best}", f"{row.recorded_seconds:.1f} s",
            f"{row.streaming_seconds:.1f} s", f"{row.reading_seconds:.1f} s",
        )  # fmt: skip
    return table
