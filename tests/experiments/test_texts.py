"""Texts to read: the books of a folder in order, those of the hub, parts tokenised by themselves, words counted."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from experiments.texts import HUB, encode_text, read_parts
from tests.experiments.test_tasks import byte_tokenizer


def test_books_of_a_folder_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "pg19" / "test").mkdir(parents=True)
    for name in ("20.txt", "10.txt", "9.md"):
        (folder / name).write_text(f"book {name}", encoding="utf-8")
    monkeypatch.setenv("NAMM_DATA", str(tmp_path))
    assert read_parts("pg19") == ("book 10.txt", "book 20.txt")
    assert read_parts(folder / "9.md") == ("book 9.md",)


def test_books_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package: rows come through, and both failures say what to do."""
    monkeypatch.setenv("NAMM_DATA", "")
    rows: list[dict] = [{"short_book_title": "A", "publication_date": 1, "url": "", "text": text} for text in "ab"]
    package = ModuleType("datasets")

    def load_dataset(name: str, subset: str, split: str) -> list[dict]:
        if not rows:
            raise ConnectionError("offline")
        assert (name, subset, split) == (HUB, "default", "test")
        return rows

    package.load_dataset = load_dataset  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "datasets", package)
    assert read_parts("pg19") == ("a", "b")
    rows[0]["text"] = None
    with pytest.raises(ValueError, match=r"row 0: key 'text': got None, expected a text"):
        read_parts("pg19")
    rows.clear()
    with pytest.raises(FileNotFoundError, match=r"offline.*--data-dir or NAMM_DATA a folder .* pg19/test/\*\.txt"):
        read_parts("pg19")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"namm\[bench\].*pg19/test"):
        read_parts("pg19")


def test_parts_are_tokenised_by_themselves() -> None:
    tokenizer = byte_tokenizer(merges=300)
    parts = ("The rain\n\nin  Spain", "stays — mainly", " in the plain. ")
    text = encode_text(tokenizer, parts)
    assert text.words == 4 + 3 + 3
    np.testing.assert_array_equal(text.ids, [i for part in parts for i in tokenizer(part)["input_ids"]])


def test_the_bundled_text_has_words() -> None:
    (part,) = read_parts(None)
    assert len(part.split()) > 10_000
