"""Multiple choice in the form of CommonsenseQA (arXiv 1811.00937), which SirLLM's files have too: a JSON object a line.

`{"id": "1", "question": {"stem": "...", "choices": [{"label": "A", "text": "..."}, ...]}, "answerKey": "A"}`
"""

import string
from pathlib import Path
from typing import Any, NamedTuple

from experiments.tasks.rows import from_json

LETTERS = string.ascii_uppercase


class Choice(NamedTuple):
    """A question with its options in order of their letters, and the letter of the right one."""

    id: str
    stem: str
    options: tuple[str, ...]
    letter: str

    @property
    def right(self) -> str:
        """The option that is right."""
        return self.options[LETTERS.index(self.letter)]

    def ask(self) -> str:
        """The question and its lettered options, one a line."""
        listed = (f"{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=False))
        return "\n".join((self.stem, *listed))


def read_choices(path: Path, options: int) -> tuple[Choice, ...]:
    """All questions of a file, each with `options` options; ValueError names file, line and key."""
    lines = path.read_text(encoding="utf-8").split("\n")
    found = tuple(_parse(line, f"{path}, line {i}", options) for i, line in enumerate(lines, 1) if line.strip())
    if not found:
        raise ValueError(f"{path}: got no line, expected one question a line")
    return found


def _parse(line: str, where: str, options: int) -> Choice:
    row: Any = from_json(line, where)
    try:
        question, letter = row["question"], row["answerKey"]
        stem, listed = question["stem"], question["choices"]
        texts, labels = [one["text"] for one in listed], [one["label"] for one in listed]
        name = row["id"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where}: not in the form of CommonsenseQA, {type(error).__name__}: {error}") from error
    if not all(isinstance(text, str) for text in (name, stem, *texts)):
        raise ValueError(f"{where}: got id {name!r}, stem {stem!r}, options {texts!r}; expected texts")
    if labels != list(LETTERS[:options]):
        raise ValueError(f"{where}: key 'label': got {labels!r}, expected {', '.join(LETTERS[:options])}, in order")
    if letter not in labels:
        raise ValueError(f"{where}: key 'answerKey': got {letter!r}, expected one of {', '.join(labels)}")
    return Choice(name, stem.strip(), tuple(text.strip() for text in texts), letter)
