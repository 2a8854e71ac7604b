"""The page: one file, no network, data that reads back as it was recorded."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from experiments.page import embed, marks, write_report
from experiments.records import write_records
from experiments.report import write_tables
from experiments.scatter import spread
from experiments.summary import Verdict, summarise
from experiments.tasks.facts import places
from experiments.trace import Trace, pack, pack_counts, unpack

VOID = {"meta", "link", "img", "br"}
TOKENS = ("<s>", "The", " key", " is", " 4", "2", ".</script><!--", "\n", " \u2028é", " 42")


class Page(HTMLParser):
    """Elements, and the texts of those with an id; fails where tags do not nest."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[tuple[str, str | None]] = []
        self.texts: dict[str, str] = {}
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, name in self.open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two memories and the full cache over two lengths and two tasks; one memory keeps unevenly."""
    rng = np.random.default_rng()
    verdicts, traces = [], []
    for length, index in ((length, index) for length in (64, 128) for index in range(4)):
        task, kept, over = ("t", "u")[index % 2], {}, {}
        for memory, budget in (("evolved <b>", "50%"), ("evolved <b>", "9"), ("even", "50%"), ("keep-all", "full")):
            bits = rng.random((3, 2, len(TOKENS))) < 0.5
            held = bits.sum(2) if budget == "50%" and memory != "even" else np.full((3, 2), 5)
            kept[f"{memory} {budget}"] = pack(bits)
            over[f"{memory} {budget}"] = pack_counts(np.array([4, 8, len(TOKENS)]), rng.integers(0, 5, (3, 2, 3)))
            verdicts.append(
                Verdict(
                    memory, budget, "streaming", task, "test", length, index, "hidden", rng.random(),
                    float(rng.random() > 0.5), float(held.mean() / len(TOKENS)), len(TOKENS), 1.0, "42", ("42",),
                    tuple(map(tuple, held.tolist())),
                )
            )  # fmt: skip
        del kept["keep-all full"], over["keep-all full"]
        traces.append(Trace(task, "streaming", length, index, TOKENS, "<i>?", ("42", "A"), ("42",), (3, 2), kept, over))
    write_records(tmp_path, verdicts, traces)
    (tmp_path / "evaluate.json").write_text(json.dumps({"host": "h", "budget": 0.5}))
    sizes = {"evolved <b>": (1000, 90), "even": (1000, 0), "keep-all": (1000, 0)}
    write_tables(summarise(verdicts, sizes, "evolved <b>"), verdicts, tmp_path)
    return tmp_path


def test_page(folder: Path) -> None:
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    for tag, attributes in page.seen:
        assert tag not in ("iframe", "object") and not (tag == "script" and "src" in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert "<b>" not in text and "evolved <b>" in page.texts["scores"] and "50%" in page.texts["scores"]
    tags = [tag for tag, _ in page.seen]
    assert tags.count("circle") == 4 * 2 and tags.count("polyline") == 3 * 2  # entries, memories; lengths
    assert sum(attributes.get("class") == "heads" for _, attributes in page.seen) == 2  # the uneven one at both lengths
    assert sum(attributes.get("class") == "depths" for _, attributes in page.seen) == 4
    assert "references" not in page.texts and "published" not in page.texts  # neither game nor benchmark
    assert "wAvg inc" in page.texts["lengths"] and "mean" in page.texts["tasks"]
    wanted = set(page.texts) | {attributes.get("id") for _, attributes in page.seen}
    assert {"prompt", "memory", "layer", "head", "map", "times", "moment", "words", "cells", "tokens"} <= wanted
    for name in ("scores.png", "heads.png", "depths.png", "times.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_data_reads_back(folder: Path) -> None:
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    traces = [json.loads(line) for line in (folder / "traces.jsonl").read_text(encoding="utf-8").split("\n") if line]
    shown = json.loads(page.texts["data"])
    assert len(shown) == len(traces) == 8
    for prompt, trace in zip(shown, traces, strict=True):
        assert tuple(prompt["tokens"]) == TOKENS and prompt["question"] == "<i>?"
        assert prompt["marks"] == [[4, 6], [9, 10]]
        for memory in prompt["memories"]:
            bits = unpack(memory["bits"], (3, 2, len(TOKENS)))
            np.testing.assert_array_equal(bits, unpack(trace["kept"][memory["name"]], bits.shape))
            assert memory["over"] == trace["over"][memory["name"]]


def test_without_traces_or_depths(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text(encoding="utf-8").split("\n") if line]
    (folder / "verdicts.jsonl").write_text("".join(json.dumps({**line, "depth": None}) + "\n" for line in lines))
    (folder / "traces.jsonl").unlink()
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "data" not in page.texts and not (folder / "depths.png").exists()


def test_old_or_missing_records_are_errors(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(FileNotFoundError, match="expected the folder of a finished"):
        write_report(tmp_path_factory.mktemp("empty"))
    (folder / "verdicts.jsonl").write_text('{"memory": "a", "age": 1}\n')
    with pytest.raises(ValueError, match=r"unknown fields \['age'\], missing fields"):
        write_report(folder)


def test_small_parts() -> None:
    assert json.loads(embed("</script>\u2028<!--")) == "</script>\u2028<!--" and "<" not in embed("</script>")
    trace = Trace("t", "m", 1, 0, ("a ", "b", "c ", "d", " bcd bc"), "", ("z",), ("bc", "z", ""), (1, 1), {}, {})
    assert list(marks(trace)) == [(1, 3), (4, 5)]
    assert list(places("14.2 4.2 é4.2é 4.24", "4.2")) == [5, 10] and list(places("東京の", "京")) == [1]
    heights = np.sort(np.random.default_rng().random(18) * 280).tolist()
    placed = spread(heights, 15.0, 12.0)
    assert min(np.diff(placed)) >= 15 - 1e-9 and min(placed) >= 12 - 1e-9
    assert spread([20.0, 100.0], 15.0, 12.0) == [20.0, 100.0]
