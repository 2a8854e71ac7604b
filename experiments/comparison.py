"""`namm evaluate`: memories and policies side by side on the same prompts, resumable."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import Progress

from experiments.evaluate import Equal, Evaluator
from experiments.objective import FULL, UseConfig
from experiments.prompts import Budget, PromptSource, TaskMix
from experiments.records import TABLE, Records, check_settings, read_table, read_verdicts
from experiments.references import print_references, write_references
from experiments.report import print_tables, write_tables
from experiments.run_config import Precision
from experiments.summary import Summary
from experiments.tasks import Split
from hosts.weights import load_host
from namm.artefact import Memory, load, training_free
from namm.model import NammPolicy


@dataclass(frozen=True)
class EvaluateConfig:
    """Memories and policies on held-out prompts of tasks, at one budget. The same command again resumes.

    memory: folders of trained memories, names of shipped ones, or policies (see `namm policies`); "keep-all" is always
    added, and the first one is the reference of the leads. length: one or more prompt lengths in tokens;
    several make a sweep with RULER's effective length and weighted averages. prompts: at each length. budget: one or
    more of tokens (an integer), share of the context (a fraction such as 0.125), or None for a memory's own threshold.
    equal: "bytes" lets a memory that carries state for every token keep fewer of them, "tokens" does not. interval,
    recent, sinks: update interval and protected tokens of training-free policies; a trained memory brings its own.
    trace: prompts of each length whose kept tokens are recorded one by one, for the page of `namm report`. folder:
    where the records are kept and found again; default a folder of its own in runs for every choice of settings.
    """

    host: str = "smollm2-135m"
    memory: tuple[str, ...] = ("keydiff", "snapkv", "streaming-llm")
    task: tuple[str, ...] = ("niah-single",)
    length: tuple[int, ...] = (1024,)
    budget: tuple[Budget, ...] = (0.25,)
    equal: Equal = "bytes"
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
    trace: int = 4
    folder: Path | None = None


def evaluate(config: EvaluateConfig, console: Console) -> list[Summary]:
    """Answer what the folder's records do not hold yet, print the tables and write them; a finished one ends at once.

    ValueError, naming the field, where the folder was begun with other settings.
    """
    if config.prompts < 1 or config.batch < 1 or config.trace < 0:
        got = f"prompts is {config.prompts}, batch {config.batch}, trace {config.trace}"
        raise ValueError(f"{got}; expected 1 or more, trace 0 or more")
    if not config.length or len(set(config.length)) != len(config.length):
        raise ValueError(f"length is {config.length}; expected one or more different lengths")
    if not config.budget or len(set(config.budget)) != len(config.budget):
        raise ValueError(f"budget is {config.budget}; expected one or more different budgets")
    memories = _memories(config)
    settings = _settings(config, memories)
    folder = config.folder or Path("runs") / f"evaluate-{_digest(json.dumps(settings).encode())}"
    check_settings(folder, settings)
    if (folder / TABLE).is_file():
        console.print(f"{folder} holds this evaluation, finished")
        print_tables(console, table := read_table(folder), read_verdicts(folder))
        print_references(console, folder)
        return table
    use = UseConfig(config.mode, config.budget[0], config.capacity, config.chunk)
    host = load_host(config.host, dtype=jnp.dtype(config.dtype))
    sources = [PromptSource(host, TaskMix(config.task, length)) for length in config.length]
    options = (memories, use, config.batch, config.budget, config.equal)
    evaluators = [Evaluator(source, *options) for source in sources]
    records, entries = Records(folder, settings), len(evaluators[0].entries)
    done = [records.done(length, entries, config.prompts, config.batch) for length in config.length]
    records.rewrite()
    with Progress(console=console) as bar:
        task = bar.add_task("prompts", total=config.prompts * len(sources), completed=sum(done))
        for evaluator, begin in zip(evaluators, done, strict=True):
            for finished in evaluator.batches(config.split, range(begin, config.prompts), config.trace):
                records.append(*finished)
                bar.advance(task, len(finished.verdicts) // entries)
    table = evaluators[0].summary(records.verdicts, memories[0].name)
    write_references(folder, sources, config.split, config.prompts)
    print_tables(console, table, records.verdicts)
    print_references(console, folder)
    write_tables(table, records.verdicts, folder)
    console.print(f"Records are in {folder}; `namm report {folder}` makes a page of them")
    return table


def _memories(config: EvaluateConfig) -> list[Memory]:
    memories: list[Memory] = []
    for name in dict.fromkeys((*config.memory, FULL)):
        memory = load(name)
        if not isinstance(memory.policy, NammPolicy):
            memory = training_free(name, config.interval, config.recent, config.sinks)
        taken = {m.name for m in memories}
        memories.append(replace(memory, name=name) if memory.name in taken else memory)
    return memories


def _settings(config: EvaluateConfig, memories: Sequence[Memory]) -> dict[str, Any]:
    """What must be alike for an evaluation to go on: all fields, and the contents of memories and task files."""
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k != "folder"}
    for memory in memories:
        if leaves := jax.tree.leaves(memory.params):
            settings[f"contents of {memory.name}"] = _digest(*(np.asarray(leaf).tobytes() for leaf in leaves))
    for task in config.task:
        if Path(task).suffix == ".jsonl" and Path(task).is_file():
            settings[f"contents of {task}"] = _digest(Path(task).read_bytes())
    return settings


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()[:12]
