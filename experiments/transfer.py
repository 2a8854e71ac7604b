"""`namm transfer`: a memory evolved on one text model at work elsewhere, beside all it must beat; resumes."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from evolve.tracking import complete_lines
from experiments.memories import named_memories
from experiments.played import Played, Task
from experiments.records import CONTENTS, check_settings, digest, memory_contents, task_contents, write_whole
from experiments.summary import WHOLE
from experiments.tasks.corpora import use_data_folder
from experiments.transfer_rows import Record, TransferRow, summarise
from experiments.transfer_views import write_views
from hosts.pytorch import attach, detach
from namm.artefact import Memory, make, training_free
from namm.contract import Parameters
from namm.model import NammPolicy
from namm.policies import POLICIES

SETTINGS, RECORDS, ROWS = "settings.json", "episodes.jsonl", "transfer.json"
MORE = ("task", "budget", "policy", "random", "episodes")  # of which a folder may be given more
KEEP_ALL = "keep-all"
FAMILIES = {
    "control": ("tmaze", "halfcheetah", "hopper", "walker2d", "d4rl"),
    "text": ("text",),
    "video": ("longvideobench", "mlvu"),
    "vision": ("vqa", "robots"),
}


@dataclass(frozen=True)
class TransferConfig:
    """A memory and what it is compared with, on the same episodes, clips or prompts; the same command again goes on.

    memory: a folder or a name, see `namm.load`. task: see docs/transfer.md. budget: shares of a task's longest context.
    policy: training-free ones; those that a host cannot serve are listed with the reason. random: how many memories of
    the same configuration, their parameters drawn at random. interval: tokens between updates (three a step of an
    episode, four a frame) for all alike, a multiple of the memory's hop. episodes: of every task (clips, prompts), from
    seed `seed` on. batch: those in step. trace: those whose tokens are recorded one by one. data_dir: folder with
    benchmark files; default the one that NAMM_DATA names.
    """

    memory: str = "contents"
    task: tuple[str, ...] = ("tmaze-20", "tmaze-80", "tmaze-300")
    budget: tuple[float, ...] = (0.5, 0.25, 0.125)
    policy: tuple[str, ...] = tuple(name for name in POLICIES if name != KEEP_ALL)
    random: int = 3
    interval: int = 48
    episodes: int = 60
    seed: int = 0
    batch: int = 60
    trace: int = 1
    folder: Path = Path("runs/transfer")
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        if min(self.episodes, self.batch) < 1 or min(self.random, self.trace, self.seed) < 0:
            got = f"episodes is {self.episodes}, batch {self.batch}, random {self.random}, trace {self.trace}"
            raise ValueError(f"{got}, seed {self.seed}; expected episodes and batch of 1 or more, no negative number")
        for name in ("task", "budget"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} is {values}; expected one or more different ones")
        if wrong := [share for share in self.budget if not 0.0 < share < 1.0]:
            raise ValueError(f"budget is {wrong[0]}; expected shares of the longest context, between 0 and 1")


@dataclass(frozen=True)
class Entry:
    """A line of the table: a memory at a budget in tokens, or a control of the task's that has none."""

    name: str
    label: str
    memory: Memory | None = None
    tokens: int | None = None


def transfer(config: TransferConfig, console: Console) -> list[TransferRow]:
    """Play what the folder does not hold yet, print the table; write table, figures and page.

    ValueError, naming the field, for settings that cannot work or a folder that was begun with others; more tasks,
    budgets, policies, random memories and episodes go on.
    """
    use_data_folder(config.data_dir)
    tasks = [find_task(name) for name in config.task]
    for task in tasks:
        if task.seeds is not None and config.seed + config.episodes > task.seeds:
            asked = f"{config.episodes} from {config.seed} on"
            raise ValueError(f"episodes: {task.name} has {task.seeds} {task.unit}; got {asked}")
    memories = named_memories([config.memory, *config.policy], config.interval)
    memories[1:1] = random_memories(memories[0], config.random)
    hosts = {task.host: task.load() for task in {task.host: task for task in tasks}.values()}
    models = {task.host: task.model(hosts[task.host]) for task in tasks}
    served, refused = {}, {}
    for host, model in models.items():
        served[host], reasons = choose(memories, model, config.interval)
        if memories[0] not in served[host]:
            raise ValueError(f"memory: {reasons[memories[0].name]}")
        refused |= reasons
    used = [memory for memory in memories if any(memory in found for found in served.values())]
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in ("folder", "batch", "data_dir")}
    settings |= memory_contents(used) | task_contents(name for task in tasks for name in task.prompts)
    settings |= {f"{CONTENTS}{name}": contents(model) for name, model in models.items()}
    check_settings(config.folder, settings, SETTINGS, (RECORDS, ROWS), MORE)
    config.folder.mkdir(parents=True, exist_ok=True)
    write_whole(config.folder / SETTINGS, json.dumps(settings, indent=2) + "\n")
    records = complete_lines(config.folder / RECORDS)
    write_whole(config.folder / RECORDS, "".join(json.dumps(one) + "\n" for one in records))
    work = [(task, entry) for task in tasks for entry in entries(config, served[task.host], task)]
    with Progress(console=console) as bar:
        shown = bar.add_task("played", total=len(work) * config.episodes, completed=len(records))
        for task, entry in work:
            for lines in missing(config, hosts[task.host], task, entry, records):
                with (config.folder / RECORDS).open("a", encoding="utf-8") as file:
                    file.write("".join(json.dumps(line) + "\n" for line in lines))
                records += lines
                bar.advance(shown, len(lines))
    order = {(task.name, entry.name, entry.label): place for place, (task, entry) in enumerate(work)}
    records.sort(key=lambda one: (order[one["task"], one["memory"], one["budget"]], one["seed"]))
    write_whole(config.folder / RECORDS, "".join(json.dumps(one) + "\n" for one in records))
    rows = summarise(records, tasks, memories[0].name)
    write_whole(config.folder / ROWS, json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    write_views(config.folder, rows, records, tasks, hosts, refused, console)
    return rows


def missing(
    config: TransferConfig, host: Any, task: Task, entry: Entry, records: Sequence[Record]
) -> Iterator[list[Record]]:
    """Batch by batch, the records of an entry's episodes that are not among `records`."""
    key = {"task": task.name, "memory": entry.name, "budget": entry.label}
    done = {one["seed"] for one in records if key.items() <= one.items()}
    left = [seed for seed in range(config.seed, config.seed + config.episodes) if seed not in done]
    for begin in range(0, len(left), config.batch):
        played = run(host, task, entry, config.interval, left[begin : begin + config.batch])
        traced = [dataclasses.asdict(one) for one in played if one.seed - config.seed < config.trace]
        others = [dataclasses.asdict(one) | {"kept": None} for one in played[len(traced) :]]
        yield [key | line for line in (*traced, *others)]


def random_memories(memory: Memory, count: int) -> list[Memory]:
    """Memories of the same configuration whose evolved parameters are standard normal; none for a policy."""
    if not isinstance(memory.policy, NammPolicy):
        return []
    leaves, form = jax.tree.flatten(memory.params.evolved)
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        drawn = form.unflatten([jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in leaves])
        made.append(make(f"random-{seed}", memory.policy.config, Parameters(drawn, memory.params.frozen)))
    return made


def choose(memories: Sequence[Memory], model: Any, interval: int) -> tuple[list[Memory], dict[str, str]]:
    """The memories that a model can be given, and why not the others."""
    served, refused = [], {}
    for memory in memories:
        try:
            detach(attach(model, memory, interval, interval))
            served.append(memory)
        except ValueError as error:
            refused[memory.name] = str(error)
    return served, refused


def contents(model: Any) -> str:
    """A short name for a model's weights."""
    tensors = (x.detach().reshape(-1).view(torch.uint8) for x in model.state_dict().values())  # NumPy has no bfloat16
    return digest(*(x.numpy().tobytes() for x in tensors))


def find_task(name: str) -> Task:
    """A task by name; ValueError for an unknown one, ImportError without the extra that it needs."""
    first = re.split("[-:@]", name)[0]
    family = next((family for family, names in FAMILIES.items() if first in names), None)
    if family == "control":
        from experiments.control.transfer import ControlTransfer

        return ControlTransfer(name)
    if family == "text":
        from experiments.text_transfer import TextTransfer

        return TextTransfer(name)
    if family == "vision":
        from experiments.vision.transfer import VisionTransfer

        return VisionTransfer(name)
    if family == "video":
        from experiments.vision.videos import VideoTransfer

        return VideoTransfer(name)
    raise ValueError(f"unknown task {name!r}; expected one that begins with {', '.join(chain(*FAMILIES.values()))}")


def entries(config: TransferConfig, memories: Sequence[Memory], task: Task) -> list[Entry]:
    """Everything that plays a task."""
    found = [Entry(KEEP_ALL, WHOLE, training_free(KEEP_ALL)), *(Entry(name, WHOLE) for name in task.controls)]
    for share in config.budget:
        tokens = max(1, round(share * task.tokens))
        found += [Entry(memory.name, f"{100 * share:g}%", memory, tokens) for memory in memories]
    return found


def run(host: Any, task: Task, entry: Entry, interval: int, seeds: Sequence[int]) -> list[Played]:
    """One batch."""
    if entry.memory is None:
        return task.play(host, seeds, entry.name)
    with attach(task.model(host), entry.memory, entry.tokens, interval):
        played = task.play(host, seeds, None)
    if entry.memory.policy.position_rule == "slot":  # positions are counted anew: which tokens stayed is not known
        return [dataclasses.replace(one, cue=None, cue_kept=None, kept=None) for one in played]
    return played
