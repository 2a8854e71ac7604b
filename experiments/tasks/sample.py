"""What a task is: a deterministic maker of samples for any tokenizer and length."""

import hashlib
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from transformers import PreTrainedTokenizerBase

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Sample:
    """One prompt with its answers.

    `context` is the instruction and the long text (what a memory compresses), `question` what follows it, `prefix` an
    unfinished sentence that the answer continues ("" if none). `target` is the canonical answer for log-likelihood.
    `classes` are all labels of a classification, `first_line` scores nothing after the first line of a prediction,
    `chat=False` keeps the prompt out of chat templates. Where there are neither answers nor a target, the host's own
    answer is what counts (see `instructions`).
    """

    task: str
    context: str
    question: str
    prefix: str
    answers: tuple[str, ...]
    target: str
    metric: str
    max_new_tokens: int
    classes: tuple[str, ...] = ()
    first_line: bool = False
    chat: bool = True


@runtime_checkable
class Task(Protocol):
    """A named source of samples, deterministic in (name, length, split, index), with disjoint splits."""

    @property
    def name(self) -> str: ...

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`, with prompt tokens + `max_new_tokens` <= `length`."""
        ...


def generator(name: str, length: int, split: Split, index: int) -> np.random.Generator:
    """Random numbers that depend on nothing but these four."""
    if split not in get_args(Split):
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(get_args(Split))}")
    if index < 0:
        raise ValueError(f"index: got {index}, expected 0 or more")
    digest = hashlib.sha256(f"{name}/{length}/{split}/{index}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def held_in(text: str, split: Split) -> bool:
    """Whether a needle belongs to this split: its hash gives 80% to training and 10% to each of the others."""
    tenth = hashlib.sha256(text.encode()).digest()[0] % 10
    return split == ("train" if tenth < 8 else "validation" if tenth == 8 else "test")
