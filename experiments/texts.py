"""Long texts to read: any file, the bundled one, or the books of PG-19 one after the other."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from experiments.tasks.corpora import OPTION, data_folder
from experiments.tasks.rows import checked, hub_rows

Source = Literal["pg19"] | Path | None
HUB = "emozilla/pg19-test"  # the official test split as a table; the original's repository holds a program instead
FIELDS = frozenset("short_book_title publication_date url text".split())
BOOKS = Path("pg19") / "test"


class Text(NamedTuple):
    """A text as a host reads it, and how many words it has: what white space separates, whatever the tokenizer."""

    ids: Int[np.ndarray, " token"]
    words: int


def read_parts(source: Source) -> tuple[str, ...]:
    """The parts that a text consists of: one file, by default the bundled one, or for "pg19" 100 books.

    Books are those of PG-19's test split (arXiv 1911.05507), from `pg19/test/*.txt` in the data folder in the order of
    their names, else from the hub. FileNotFoundError for what is not there, ValueError for a text without words.
    """
    if source == "pg19":
        parts, name = _books(), "pg19"
    else:
        path = files("experiments.tasks") / "texts" / "haystack.txt" if source is None else source
        parts, name = (path.read_text(encoding="utf-8"),), str(path)
    if not any(map(str.split, parts)):
        raise ValueError(f"{name} is empty; expected a text with words")
    return parts


def encode_text(tokenizer: PreTrainedTokenizerBase, parts: Sequence[str]) -> Text:
    """Every part tokenised by itself, one after the other, as StreamingLLM reads PG-19 (arXiv 2309.17453)."""
    ids = [np.array(tokenizer(part)["input_ids"], np.int32) for part in parts]
    return Text(np.concatenate(ids), sum(len(part.split()) for part in parts))


def _books() -> tuple[str, ...]:
    if folder := data_folder():
        paths = sorted((folder / BOOKS).glob("*.txt"))
        if not paths:
            raise FileNotFoundError(
                f"{folder / BOOKS}: no .txt files; the folder of {OPTION} must hold PG-19's test split there, one book "
                "a file. Without a folder it comes from the hub"
            )
        return tuple(path.read_text(encoding="utf-8") for path in paths)
    rows = hub_rows("PG-19", HUB, "default", f"its books as {BOOKS}/*.txt")
    return tuple(checked(row, FIELDS, ("text",))["text"] for row in rows)
