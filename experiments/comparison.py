"""`namm evaluate`: memories and policies side by side on the same prompts, resumable."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import Progress

from experiments.answers import Equal
from experiments.evaluate import Evaluator
from experiments.memories import named_memories
from experiments.objective import FULL, UseConfig
from experiments.prompts import Budget, PromptSource, TaskMix, budget_label
from experiments.records import Records, digest, finished, memory_contents, read_table, read_verdicts, task_contents
from experiments.references import print_references, write_references
from experiments.report import print_tables, write_tables
from experiments.run_config import Precision
from experiments.summary import Summary
from experiments.tasks import Split
from experiments.tasks.corpora import data_folder, use_data_folder
from hosts.endless import check_fit
from hosts.spec import HostSpec
from hosts.weights import load_host
from namm.artefact import Memory

if TYPE_CHECKING:
    from experiments.torch_engine import TorchEngine


@dataclass(frozen=True)
class EvaluateConfig:
    """Memories and policies on held-out prompts of tasks, at equal budgets. The same command again resumes.

    memory: folders of trained memories, names of shipped ones, or policies (see `namm policies`); "keep-all" is always
    added, and the first one is the reference of the leads. length: one or more prompt lengths in tokens; several make a
    sweep with RULER's effective length and weighted averages. prompts: at each length. budget: one or more of tokens
    (an integer), share of the context (a fraction such as 0.125), or None for a memory's own threshold. equal: "bytes"
    lets a memory that carries state for every token keep fewer of them, "tokens" does not. interval, recent, sinks:
    update interval and protected tokens of training-free policies; a trained memory brings its own. engine: "torch"
    answers through transformers, streaming, with the same scores and without traces, for any decoder that `attach`
    takes, on the accelerators that there are. trace: prompts of each length (up to 32,768) whose kept tokens are
    recorded one by one, for `namm report`. folder: where the records are kept and found again; one that is named may be
    given more memories, budgets and prompts later, which alone are answered; default a folder of its own in runs for
    every choice of settings. data_dir: folder with benchmark files; default the one that NAMM_DATA names, else the hub.

    Lengths beyond the host's positions take mode "streaming" and memories at slot positions ("streaming-llm",
    "sirllm"), whose cache does not grow; "keep-all" is not added then.
    """

    host: str = "smollm2-135m"
    memory: tuple[str, ...] = ("keydiff", "snapkv", "streaming-llm")
    task: tuple[str, ...] = ("niah-single",)
    length: tuple[int, ...] = (1024,)
    budget: tuple[Budget, ...] = (0.25,)
    equal: Equal = "bytes"
    mode: Literal["recorded", "streaming"] = "streaming"
    engine: Literal["jax", "torch"] = "jax"
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
    data_dir: Path | None = None


def evaluate(config: EvaluateConfig, console: Console) -> list[Summary]:
    """Answer what the folder's records do not hold yet, print the tables and write them; a finished one ends at once.

    ValueError, naming the field, where the folder was begun with other settings; more memories, budgets and
    prompts go on.
    """
    if config.prompts < 1 or config.batch < 1 or config.trace < 0:
        got = f"prompts is {config.prompts}, batch {config.batch}, trace {config.trace}"
        raise ValueError(f"{got}; expected 1 or more, trace 0 or more")
    if not config.length or len(set(config.length)) != len(config.length):
        raise ValueError(f"length is {config.length}; expected one or more different lengths")
    if not config.budget or len(set(map(budget_label, config.budget))) != len(config.budget):
        raise ValueError(f"budget is {config.budget}; expected one or more different budgets (shares: to six digits)")
    use_data_folder(config.data_dir)
    memories = named_memories((*config.memory, FULL), config.interval, config.recent, config.sinks)
    for memory in memories if None in config.budget else ():
        if memory.selection.threshold is None and memory.policy.name != FULL:
            raise ValueError(f"budget is None; expected a number or share with {memory.name}, which has no threshold")
    settings = _settings(config, memories)
    folder = config.folder or Path("runs") / f"evaluate-{digest(json.dumps(settings).encode())}"
    if finished(folder, settings):
        console.print(f"{folder} holds this evaluation, finished")
        print_tables(console, table := read_table(folder), read_verdicts(folder))
        print_references(console, folder)
        return table
    use = UseConfig(config.mode, config.budget[0], config.capacity, config.chunk)
    other = _torch_engine(config) if config.engine == "torch" else None
    host = load_host(config.host, dtype=config.dtype) if other is None else other.host
    if endless := max(config.length) > host.spec.max_positions:
        memories = _without_end(config, memories, host.spec)
        console.print(f"{FULL} is left out: {host.spec.name} has {host.spec.max_positions} positions")
    sources = [PromptSource(host, TaskMix(config.task, length), endless) for length in config.length]
    options = (use, config.batch, config.budget, config.equal, other)
    evaluators = [Evaluator(source, memories, *options) for source in sources]
    records, order = Records(folder, settings), sources[0].mix.order(config.prompts)
    entries = [entry.name for entry in evaluators[0].entries]
    missing = [records.missing(length, entries, order) for length in config.length]
    places = (config.length, entries, order)
    records.rewrite(*places)
    with Progress(console=console) as bar:
        left = sum(len(names) * len(indices) for groups in missing for names, indices in groups.items())
        total = len(entries) * len(order) * len(sources)
        task = bar.add_task("answers", total=total, completed=total - left)
        for evaluator, groups in zip(evaluators, missing, strict=True):
            for names, indices in groups.items():
                for part in evaluator.parts(indices):
                    for answered in evaluator.only(names).judge(config.split, part, config.trace):
                        records.append(*answered)
                        bar.advance(task, len(part))
    records.rewrite(*places)
    table = evaluators[0].summary(records.verdicts, memories[0].name)
    write_references(folder, sources, config.split, config.prompts)
    print_tables(console, table, records.verdicts)
    print_references(console, folder)
    write_tables(table, records.verdicts, folder)
    console.print(f"Records are in {folder}; `namm report {folder}` makes a page of them")
    return table


def _torch_engine(config: EvaluateConfig) -> "TorchEngine":
    from experiments.torch_engine import TorchEngine  # torch is not needed otherwise

    return TorchEngine(config.host, config.dtype)


def _without_end(config: EvaluateConfig, memories: Sequence[Memory], spec: HostSpec) -> list[Memory]:
    """The memories that were asked for, which read more tokens than a host has positions.

    ValueError, naming the memory at fault, where one keeps original positions or its slots are too many.
    """
    longest = max(config.length)
    why = f"length is {longest}; {spec.name} has {spec.max_positions} positions. "
    if config.mode != "streaming":
        raise ValueError(f"{why}Longer prompts take --mode streaming; choose it, or a shorter length")
    asked = list(memories) if FULL in config.memory else list(memories[:-1])
    for memory in asked:
        if memory.policy.position_rule != "slot" or memory.policy.name == FULL:
            raise ValueError(
                f"{why}Longer prompts take memories at slot positions, such as streaming-llm and sirllm, which "
                f"{memory.name} is not. Choose a shorter length, a host with RoPE scaling or other memories"
            )
        for budget in config.budget:
            check_fit(spec, memory, UseConfig(config.mode, budget, config.capacity).kept(longest))
    return asked


def _settings(config: EvaluateConfig, memories: Sequence[Memory]) -> dict[str, Any]:
    """What must be alike for an evaluation to go on: all fields, and the contents of memories and task files."""
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("folder", "data_dir")}
    settings["data_dir"] = str(folder.resolve()) if (folder := data_folder()) else None
    return settings | memory_contents(memories) | task_contents(config.task)
