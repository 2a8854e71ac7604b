"""Prompts of a task mix in fixed shapes, so that nothing recompiles from one batch to the next."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from experiments.tasks import Split, Task, load_task
from experiments.tasks.encoding import Batch, Encoded, Template, best_template, collate, encode
from experiments.tasks.instructions import Instructions
from hosts.weights import Host

PROBES = 24  # samples a task that fix the shapes
PROBED = 16_384 * PROBES  # tokens a task that they have at most, but for two of them: long prompts take long to make
ROUND = 4  # widths are rounded up to this many tokens
Budget = int | float | None  # tokens, a share of the context, or a memory's own threshold
COARSE = 64  # and those of an odd prompt that is wider than every probe to this, so that few shapes compile


class Widths(NamedTuple):
    """Padded sizes in tokens of the three parts of a prompt."""

    context: int
    question: int
    target: int


@dataclass(frozen=True)
class TaskMix:
    """Which tasks, at which prompt length (tokens, prompt and answer together).

    Prompts go round the tasks: prompt i of a split is sample i // len(tasks) of task i % len(tasks).
    """

    tasks: tuple[str, ...]
    length: int

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("tasks is empty; name at least one task (see `namm evaluate --help`)")
        if self.length < 64:
            raise ValueError(f"length is {self.length}; expected at least 64 tokens")

    def order(self, prompts: int) -> list[int]:
        """Indices of the first prompts task by task: a batch of one task ends when its own answers do."""
        return sorted(range(prompts), key=lambda index: index % len(self.tasks))


@dataclass
class PromptSource:
    """Encoded prompts of a mix for one host.

    endless: prompts may be longer than the host has positions, for memories at slot positions alone; else ValueError.
    unanswered: so may tasks be without answers of their own, for a fit, which takes the host's own; else ValueError.
    """

    host: Host
    mix: TaskMix
    endless: bool = False
    unanswered: bool = False
    tasks: list[Task] = field(init=False)
    template: Template = field(init=False)
    widths: Widths = field(init=False)
    steps: int = field(init=False)

    def __post_init__(self) -> None:
        limit = self.host.spec.max_positions
        if self.mix.length > limit and not self.endless:
            raise ValueError(
                f"length is {self.mix.length}; {self.host.spec.name} has {limit} positions. "
                "Choose a shorter length or a host with RoPE scaling"
            )
        self.tasks = [load_task(name) for name in self.mix.tasks]
        open_ended = [task.name for task in self.tasks if isinstance(task, Instructions)]
        if open_ended and not self.unanswered:
            raise ValueError(f"tasks: {open_ended[0]} has no answers to score; it is for fit_tasks alone")
        self.template = best_template(self.host.tokenizer)
        count = min(PROBES, max(2, PROBED // self.mix.length))
        probes = [self._encode("train", i) for i in range(count * len(self.tasks))]
        questions = max(len(p.question) for p in probes)
        targets = max(len(p.target) or p.sample.max_new_tokens for p in probes)
        self.widths = Widths(*(-(-tokens // ROUND) * ROUND for tokens in (self.mix.length, questions, targets)))
        self.steps = max(p.sample.max_new_tokens for p in probes)

    def _encode(self, split: Split, index: int) -> Encoded:
        task = self.tasks[index % len(self.tasks)]
        sample = task.make(self.host.tokenizer, self.mix.length, split, index // len(self.tasks))
        return encode(self.host.tokenizer, sample, self.template)

    def prompt(self, split: Split, index: int) -> Encoded:
        """Prompt `index` of a split; a context wider than the mix's length is an error."""
        encoded = self._encode(split, index)
        if len(encoded.context) > self.widths.context:
            raise ValueError(
                f"{encoded.sample.task}, {split} sample {index}: its context has {len(encoded.context)} tokens, more "
                f"than the length {self.mix.length}; raise the length or shorten the context"
            )
        return encoded

    def batch(self, split: Split, indices: Sequence[int]) -> Batch:
        """The prompts of a split as arrays (see `arrays`)."""
        return self.arrays([self.prompt(split, index) for index in indices])

    def arrays(self, prompts: Sequence[Encoded]) -> Batch:
        """Right-padded arrays of the fixed widths; a question or target beyond them takes the next coarse width."""
        return fit(collate(prompts), self.widths)


def fit(batch: Batch, widths: Widths) -> Batch:
    """Pad the three id arrays (last axis) to their widths, wider ones to a multiple of COARSE."""
    parts = batch._asdict()
    for part, width in zip(("context", "question", "target"), widths, strict=True):
        size = parts[part].shape[-1]
        wanted = width if size <= width else -(-size // COARSE) * COARSE
        parts[part] = np.pad(parts[part], [(0, 0)] * (parts[part].ndim - 1) + [(0, wanted - size)])
    return Batch(**parts)


def budget_label(budget: Budget) -> str:
    """How a budget is shown: "25%", "1024" tokens, or "own" for a memory's own threshold."""
    if budget is None:
        return "own"
    return f"{100 * budget:g}%" if isinstance(budget, float) else str(budget)


def resolve_budget(budget: Budget, lengths: np.ndarray, capacity: int, protected: int) -> np.ndarray:
    """Tokens each prompt may keep: a number of tokens, a share of its context, or None for the capacity."""
    if budget is None:
        return np.full(len(lengths), capacity, np.int32)
    if isinstance(budget, float):
        if not 0.0 < budget <= 1.0:
            raise ValueError(f"budget is {budget}; a share lies above 0 and at most 1, tokens are an integer")
        tokens = np.maximum(np.ceil(budget * lengths), 1).astype(np.int32)
    else:
        tokens = np.full(len(lengths), budget, np.int32)
    if tokens.min() < protected:
        raise ValueError(
            f"budget {budget} leaves {tokens.min()} tokens, fewer than the {protected} protected ones "
            "(selection.recent + selection.sinks); raise the budget or protect fewer"
        )
    return np.minimum(tokens, capacity)
