"""A user's own task: one JSON object a line."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

from transformers import PreTrainedTokenizerBase

from experiments.tasks.encoding import prompt_length
from experiments.tasks.metrics import METRICS
from experiments.tasks.sample import Sample, Split, generator

TEXTS = ("prompt", "context", "question", "prefix")
KEYS = {*TEXTS, "answers", "metric", "max_new_tokens"}


@dataclass(frozen=True)
class JsonLines:
    """Samples of a file; prompts are ordered by hash and cut 80/10/10 into the splits, at least one line each."""

    path: str
    parts: dict[Split, tuple[Sample, ...]]

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return Path(self.path).stem

    @classmethod
    def load(cls, path: str) -> "JsonLines":
        """Read and check the whole file; ValueError names file, line and key."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"task file {path}: not found; give the path of a .jsonl file")
        # "\n" only: str.splitlines would also cut at separators that JSON strings may hold.
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        samples = [_parse(line, f"{path}, line {i}", path) for i, line in enumerate(lines, 1) if line.strip()]
        groups: dict[str, list[Sample]] = {}
        for sample in samples:  # equal prompts stay in one split
            groups.setdefault(hashlib.sha256((sample.context + sample.question).encode()).hexdigest(), []).append(
                sample
            )
        if len(groups) < 3:
            raise ValueError(f"{path}: got {len(groups)} different prompts, expected at least 3 (one for each split)")
        ordered = [groups[digest] for digest in sorted(groups)]
        held_out = max(1, len(ordered) // 10)
        cuts = {"test": ordered[:held_out], "validation": ordered[held_out : 2 * held_out]}
        cuts["train"] = ordered[2 * held_out :]
        return cls(path, {split: tuple(one for group in cuts[split] for one in group) for split in get_args(Split)})

    def make(self, tokenizer: PreTrainedTokenizerBase, length: int, split: Split, index: int) -> Sample:
        """Sample `index` of `split`, from the start again after the last; ValueError if longer than `length`."""
        generator(self.name, length, split, index)  # checks split and index
        sample = self.parts[split][index % len(self.parts[split])]
        need = _cached_length(tokenizer, sample) + sample.max_new_tokens
        if need > length:
            raise ValueError(
                f"{self.path}: a prompt needs {need} tokens with its {sample.max_new_tokens} new ones, length is "
                f"{length}; raise the length or shorten the prompt that begins {sample.context[:40]!r}"
            )
        return sample


_cached_length = lru_cache(maxsize=4096)(prompt_length)


def _parse(line: str, where: str, path: str) -> Sample:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: got {type(row).__name__}, expected a JSON object")
    if unknown := sorted(set(row) - KEYS):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known keys are {', '.join(sorted(KEYS))}")
    if ("prompt" in row) == ("context" in row or "question" in row) or ("context" in row) != ("question" in row):
        raise ValueError(f"{where}: expected either 'prompt' or both 'context' and 'question'")
    for key in TEXTS:
        if key in row and not (isinstance(row[key], str) and (row[key] or key == "prefix")):
            raise ValueError(f"{where}: key {key!r}: got {row[key]!r}, expected a text that is not empty")
    answers = _answers(row, where)
    metric, limit = row.get("metric", "contains_all"), row.get("max_new_tokens", 32)
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(f"{where}: key 'metric': got {metric!r}, expected one of {', '.join(METRICS)}")
    if type(limit) is not int or limit < 1:
        raise ValueError(f"{where}: key 'max_new_tokens': got {limit!r}, expected a whole number of 1 or more")
    context = row["prompt"] if "prompt" in row else row["context"].rstrip("\n") + "\n"
    question = row.get("question", "")
    return Sample(Path(path).stem, context, question, row.get("prefix", ""), answers, answers[0], metric, limit)


def _answers(row: dict, where: str) -> tuple[str, ...]:
    answers = [row["answers"]] if isinstance(row.get("answers"), str) else row.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(one, str) and one for one in answers):
        raise ValueError(f"{where}: key 'answers': got {answers!r}, expected a text or a list of texts, none empty")
    return tuple(answers)
