"""`namm evaluate`: memories and policies side by side on the same prompts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
from rich.console import Console
from rich.progress import Progress

from experiments.evaluate import Evaluator, Summary
from experiments.objective import FULL, UseConfig
from experiments.prompts import PromptSource, TaskMix
from experiments.report import rich_table, write_tables
from experiments.run_config import Precision
from experiments.tasks import Split
from hosts.weights import load_host
from namm.artefact import load, training_free
from namm.model import NammPolicy


@dataclass(frozen=True)
class EvaluateConfig:
    """Memories and policies on held-out prompts of a task, at one budget.

    memory: folders of trained memories, names of shipped ones, or policies (see `namm policies`); "keep-all" is always
    added, and the first one is the reference of the paired differences. budget: tokens (an integer), share of the
    context (a fraction such as 0.125), or None for a memory's own threshold. interval, recent, sinks: update interval
    and protected tokens of training-free policies; a trained memory brings its own.
    """

    host: str = "smollm2-135m"
    memory: tuple[str, ...] = ("keydiff", "snapkv", "streaming-llm")
    task: tuple[str, ...] = ("niah-single",)
    length: int = 1024
    budget: int | float | None = 0.25
    mode: Literal["recorded", "streaming"] = "streaming"
    split: Split = "test"
    prompts: int = 32
    batch: int = 8
    interval: int = 128
    recent: int = 1
    sinks: int = 0
    capacity: int = 1024
    chunk: int = 128
    dtype: Precision = "float32"
    folder: Path = Path("runs/evaluate")


def evaluate(config: EvaluateConfig, console: Console) -> list[Summary]:
    """Run, print the table, write tables and one line a prompt and memory to the folder."""
    if config.prompts < 1 or config.batch < 1:
        raise ValueError(f"prompts is {config.prompts}, batch {config.batch}; expected 1 or more")
    memories = []
    for name in dict.fromkeys((*config.memory, FULL)):
        memory = load(name)
        if not isinstance(memory.policy, NammPolicy):
            memory = training_free(name, config.interval, config.recent, config.sinks)
        taken = {m.name for m in memories}
        memories.append(replace(memory, name=name) if memory.name in taken else memory)
    use = UseConfig(config.mode, config.budget, config.capacity, config.chunk)
    host = load_host(config.host, dtype=jnp.dtype(config.dtype))
    source = PromptSource(host, TaskMix(config.task, config.length))
    evaluator = Evaluator(source, memories, use, config.batch)
    with Progress(console=console) as bar:
        task = bar.add_task("prompts", total=config.prompts)
        verdicts = evaluator.run(config.split, range(config.prompts), lambda n: bar.advance(task, n))
    config.folder.mkdir(parents=True, exist_ok=True)
    table = evaluator.summary(verdicts, memories[0].name)
    console.print(rich_table(table))
    write_tables(table, verdicts, config.folder)
    return table
