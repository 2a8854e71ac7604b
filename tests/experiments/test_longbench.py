"""LongBench on a small sample of our own in its form: prompts, cuts, splits, sources and errors."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from transformers import PreTrainedTokenizerFast

from experiments.tasks import load_task
from experiments.tasks.encoding import encode, prompt_length
from experiments.tasks.longbench import FIRST_LINE, METRIC, load
from experiments.tasks.metrics import score
from experiments.tasks.rows import Item
from experiments.tasks.sample import Split, held_in
from tests.experiments.test_tasks import SPLITS, byte_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "longbench"
CHAT_FREE = ("trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(merges=1000, chat=True)


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NAMM_DATA", str(GOLDEN))
    load.cache_clear()


def item(subset: str, split: Split) -> Item:
    return load(subset, str(GOLDEN))[split][0]


@pytest.mark.parametrize("subset", METRIC)
def test_prompt_and_metric(subset: str, tokenizer: PreTrainedTokenizerFast):
    source = item(subset, "test")
    sample = load_task(f"longbench/{subset}").make(tokenizer, 30_000, "test", 0)
    assert sample.context.endswith(source.document) and len(sample.context) > len(source.document) + 8
    assert source.input in sample.question and "{" not in sample.question.replace(source.input, "")
    assert sample.answers == source.answers
    assert score(sample.target, sample) == pytest.approx(1, abs=1e-6)
    assert score("nothing", sample) < 0.5
    later = score(f"nothing\n{sample.target}", sample)
    assert later < 0.5 if subset in FIRST_LINE or sample.metric == "code_similarity" else later > 0.2
    text = tokenizer.decode(encode(tokenizer, sample, "chat").context)
    assert ("<|user|>" in text) == (subset not in CHAT_FREE) and str(text).startswith("<s>")


@pytest.mark.parametrize("subset", ["passage_retrieval_en", "dureader", "lcc", "repobench-p"])
def test_cut_keeps_both_ends(subset: str, tokenizer: PreTrainedTokenizerFast):
    task = load_task(f"longbench/{subset}")
    whole = task.make(tokenizer, 30_000, "train", 1)
    full, need = whole.context + whole.question, prompt_length(tokenizer, whole) + whole.max_new_tokens
    assert task.make(tokenizer, need, "train", 1) == whole, "what fits is not cut"
    for length in (need - 1, need // 2, whole.max_new_tokens + 60):
        sample = task.make(tokenizer, length, "train", 1)
        assert length - 12 < prompt_length(tokenizer, sample) + sample.max_new_tokens <= length
        text = sample.context + sample.question
        head = next(i for i in range(len(text) + 1) if text[: i + 1] != full[: i + 1] or i == len(text))
        assert full.endswith(text[head:]), "one piece is missing, from the middle"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        first = tokenizer(text[:head], add_special_tokens=False)["input_ids"]
        assert abs(len(first) - len(ids) / 2) < 12
        assert whole.question.endswith(sample.question), "question text never moves into the context"
        assert sample.question == whole.question or sample.context in full
    with pytest.raises(ValueError, match="is too short"):
        task.make(tokenizer, whole.max_new_tokens, "train", 1)


def test_splits(tokenizer: PreTrainedTokenizerFast):
    parts = load("trec", str(GOLDEN))
    assert [len(parts[split]) for split in SPLITS] == [4, 1, 1]
    assert all(held_in(item.id, split) for split in SPLITS for item in parts[split])
    task = load_task("longbench/trec")
    assert task.make(tokenizer, 4000, "train", 5) == task.make(tokenizer, 4000, "train", 1), "round and round"
    with pytest.raises(ValueError, match="index: got -1"):
        task.make(tokenizer, 4000, "test", -1)


def test_official_wording_is_used_where_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
):
    (tmp_path / "qmsum.jsonl").write_text((GOLDEN / "qmsum.jsonl").read_text("utf-8"), "utf-8")
    (tmp_path / "dataset2prompt.json").write_text(json.dumps({"qmsum": "One {context} two {input} three"}))
    monkeypatch.setenv("NAMM_DATA", str(tmp_path))
    sample = load_task("longbench/qmsum").make(tokenizer, 4000, "test", 0)
    source = item("qmsum", "test")
    assert (sample.context, sample.question) == (f"One {source.document}", f" two {source.input} three")
    (tmp_path / "dataset2prompt.json").write_text(json.dumps({"qmsum": "Only {input}"}))
    with pytest.raises(ValueError, match=r"dataset2prompt.json: key 'qmsum'"):
        load_task("longbench/qmsum").make(tokenizer, 4000, "test", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": []}, "line 1: key 'answers'"),
        ({"answers": "one"}, "line 1: key 'answers'"),
        ({"context": None}, "line 1: key 'context'"),
        ({"all_classes": "one"}, "line 1: key 'all_classes'"),
        ({"extra": 1}, "line 1: unknown key 'extra'"),
    ],
)
def test_damaged_files(change: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    row = json.loads((GOLDEN / "trec.jsonl").read_text("utf-8").split("\n")[0])
    (tmp_path / "trec.jsonl").write_text(json.dumps(row | change))
    with pytest.raises(ValueError, match=message):
        load("trec", str(tmp_path))


def test_missing_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast):
    task = load_task("longbench/trec")
    monkeypatch.setenv("NAMM_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"trec\.jsonl: not found"):
        task.make(tokenizer, 4000, "test", 0)
    (tmp_path / "trec.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"line 1: not valid JSON"):
        task.make(tokenizer, 4000, "test", 0)
    (tmp_path / "lsht.jsonl").write_text("")
    with pytest.raises(ValueError, match="no item belongs to the split test"):
        load_task("longbench/lsht").make(tokenizer, 4000, "test", 0)
    monkeypatch.setenv("NAMM_DATA", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="NAMM_DATA"):
        task.make(tokenizer, 4000, "test", 0)


def test_hub(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast):
    """With a stand-in for the package: rows come through, and both failures say what to do."""
    monkeypatch.delenv("NAMM_DATA")
    rows = [json.loads(line) for line in (GOLDEN / "musique.jsonl").read_text("utf-8").split("\n") if line]
    package = ModuleType("datasets")

    def load_dataset(name: str, subset: str, split: str) -> list[dict]:
        if (name, subset, split) != ("Xnhyacinth/LongBench", "musique", "test"):
            raise ConnectionError("offline")
        return rows

    package.load_dataset = load_dataset  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "datasets", package)
    sample = load_task("longbench/musique").make(tokenizer, 30_000, "test", 0)
    assert sample.answers == item("musique", "test").answers
    with pytest.raises(FileNotFoundError, match=r"cannot load .*offline.*NAMM_DATA"):
        load_task("longbench/qasper").make(tokenizer, 4000, "test", 0)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"namm\[bench\].*NAMM_DATA"):
        load_task("longbench/qasper").make(tokenizer, 4000, "test", 0)
