"""Published figures: what ships is whole, damaged tables say where, and figures stand only where they belong."""

import secrets
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest

from experiments.published import COLUMNS, Published, published
from experiments.published.matching import comparisons, length_of
from experiments.summary import RULER_THRESHOLD, TaskRow
from experiments.tasks.longbench import METRIC

HEADER = ",".join(COLUMNS)
GOOD = 'sirllm,Yi-6B,"Grocery, recall",cache 1024,accuracy %,99.27,arXiv 2405.12528,yes'


def find(**wanted: str) -> list[Published]:
    return [one for one in published() if all(getattr(one, name) == cell for name, cell in wanted.items())]


def test_what_ships():
    rows = published()
    assert len(rows) > 200 and {True, False} == {one.verified for one in rows}
    assert {"streaming-llm", "sirllm", "namm", "kvzip", "snapkv"} <= {one.system for one in rows}
    (grocery,) = find(system="sirllm", model="Yi-6B", benchmark="Grocery Shopping")
    assert grocery.value == 99.27 and grocery.verified
    assert not any(one.verified for one in rows if one.model == "160M from scratch")
    (mean,) = find(benchmark="LongBench", system="namm")
    assert mean.value == 29.33 and not mean.verified


def test_averages_agree_with_their_parts():
    base = {one.setting.split(",")[0]: one.value for one in find(benchmark="LongBench", system="full cache")}
    assert base.pop("mean of 21 tasks") == pytest.approx(np.mean(list(base.values())), abs=0.005)
    assert set(base) == set(METRIC)
    llama = {one.setting.split(",")[0]: one.value for one in find(model="Llama-3.1-8B", system="full cache")}
    lengths = [llama[name] for name in ("4K", "8K", "16K", "32K", "64K", "128K")]
    assert llama["mean over lengths"] == pytest.approx(np.mean(lengths), abs=0.06)
    (threshold,) = find(benchmark="RULER", model="Llama-2-7B-chat")
    assert threshold.value == pytest.approx(100 * RULER_THRESHOLD)


def test_own_table(tmp_path: Path):
    value = secrets.randbelow(10**6) / 1000
    (path := tmp_path / "own.csv").write_text(f"{HEADER}\n{GOOD.replace('99.27', str(value))}\n")
    expected = ("sirllm", "Yi-6B", "Grocery, recall", "cache 1024", "accuracy %", value, "arXiv 2405.12528", True)
    assert [astuple(one) for one in published(path)] == [expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: got columns \[\]"),
        (HEADER.replace("model,", ""), "line 1: got columns"),
        (f"{HEADER}\n{GOOD}\n{GOOD}", "line 3: sirllm, Yi-6B, .* has a value already"),
        (f"{HEADER}\n{GOOD},more", "line 2: got 9 cells, expected 8"),
        (f"{HEADER}\n{GOOD.replace('Yi-6B', '')}", "line 2: column 'model'"),
        (f"{HEADER}\n{GOOD.replace('Yi-6B', ' Yi-6B')}", "line 2: column 'model'"),
        (f"{HEADER}\n{GOOD.replace('99.27', 'high')}", "line 2: column 'value': got 'high'"),
        (f"{HEADER}\n{GOOD.replace('99.27', 'nan')}", "line 2: column 'value': got 'nan'"),
        (f"{HEADER}\n{GOOD.replace('yes', 'true')}", "line 2: column 'verified': got 'true'"),
    ],
)
def test_damaged_tables(text: str, message: str, tmp_path: Path):
    (path := tmp_path / "own.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        published(path)


def rows(*tasks: str, length: int = 1024) -> list[TaskRow]:
    """Three entries on tasks, with scores 0.0, 0.5, 1.0, 0.0, ... in order."""
    entries = (("own", "25%"), ("snapkv", "25%"), ("tova", "25%"), ("keep-all", "full"))
    return [
        TaskRow(*entry, "recorded", length, task, 4, (i % 3) / 2)
        for entry in entries
        for i, task in enumerate((*tasks, "mean"))
    ]


def test_nothing_stands_beside_other_tasks():
    assert comparisons(rows("passkey", "niah-single", "own.jsonl"), "own") == []


def test_ruler_stands_beside_the_closest_length():
    for length, closest in ((512, 4096), (9000, 8192), (10**6, 131072)):
        (found,) = comparisons(rows("ruler/vt", "passkey", "ruler/cwe", length=length), "own")
        assert found.benchmark == "RULER" and len(found.tasks) == 13 and found.has == ("ruler/vt", "ruler/cwe")
        assert {length_of(figure) for figure in found.figures} == {closest}
        names = [row.memory for row in found.own]
        assert names == (["own", "snapkv", "keep-all"] if closest == 4096 else ["own", "keep-all"])
        assert {(row.prompts, row.score) for row in found.own} == {(8, 0.5)}  # 0.0 and 1.0, the pass key left out


def test_longbench_stands_by_subset_and_mean():
    found = {(c.benchmark, c.tasks): c for c in comparisons(rows("longbench/qasper", "longbench/trec"), "own")}
    (alone,) = found["LongBench", ("longbench/trec",)].figures
    assert alone.value == 73.0 and alone.setting.startswith("trec,")
    (whole,) = (c for c in found.values() if c.benchmark == "LongBench" and len(c.tasks) == 21)
    assert {figure.value for figure in whole.figures} == {28.86, 29.33} and len(whole.has) == 2
    assert {figure.metric for c in found.values() for figure in c.figures} == {"score %", "micro F1 %"}
    assert len(found) == 4
