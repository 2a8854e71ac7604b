"""ChouBun on a small sample of our own in its form: prompts, cuts, splits and sources."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import PreTrainedTokenizerFast

from experiments.tasks import load_task
from experiments.tasks.choubun import METRIC, load
from experiments.tasks.encoding import prompt_length
from experiments.tasks.metrics import METRICS, score
from tests.experiments.test_tasks import SPLITS, byte_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "choubun"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(merges=300)


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NAMM_DATA", str(GOLDEN))
    load.cache_clear()


@pytest.mark.parametrize("subset", METRIC)
def test_prompt_and_metric(subset: str, tokenizer: PreTrainedTokenizerFast):
    parts = load(subset, str(GOLDEN))
    assert [len(parts[split]) for split in SPLITS] == [4, 1, 1]
    source = parts["test"][0]
    sample = load_task(f"choubun/{subset}").make(tokenizer, 8000, "test", 0)
    assert sample.context.endswith(source.document) and len(sample.context) > len(source.document) + 8
    assert source.input in sample.question and "{" not in sample.question
    assert sample.answers == source.answers and len(sample.answers) == {"corp_sec_sum": 5, "wiki_qa": 2}.get(subset, 1)
    assert (sample.metric, sample.max_new_tokens) == METRIC[subset]
    assert all(score(answer, sample) == pytest.approx(1, abs=1e-6) for answer in sample.answers)
    assert score("何もない", sample) < 0.5 and score("", sample) == 0


def test_cut_keeps_both_ends(tokenizer: PreTrainedTokenizerFast):
    task = load_task("choubun/wiki_qa")
    whole = task.make(tokenizer, 8000, "train", 1)
    length = prompt_length(tokenizer, whole) * 3 // 4
    sample = task.make(tokenizer, length, "train", 1)
    assert prompt_length(tokenizer, sample) + 64 <= length
    assert sample.question == whole.question and sample.context.endswith(whole.context[-20:])
    assert "\ufffd" not in sample.context and sample.context.startswith(whole.context[:20])


def test_official_wording_is_used_where_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
):
    (tmp_path / "wiki_qa.jsonl").write_text((GOLDEN / "wiki_qa.jsonl").read_text("utf-8"), "utf-8")
    (tmp_path / "ChouBun" / "config").mkdir(parents=True)
    prompts = tmp_path / "ChouBun" / "config" / "dataset2prompt.json"
    prompts.write_text(json.dumps({"wiki_qa": "一 {context} 二 {input} 三"}), "utf-8")
    monkeypatch.setenv("NAMM_DATA", str(tmp_path))
    sample = load_task("choubun/wiki_qa").make(tokenizer, 8000, "test", 0)
    source = load("wiki_qa", str(GOLDEN))["test"][0]
    assert (sample.context, sample.question) == (f"一 {source.document}", f" 二 {source.input} 三")


def test_hub(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast):
    here = load_task("choubun/edinet_qa").make(tokenizer, 8000, "test", 0)
    monkeypatch.delenv("NAMM_DATA")
    asked: list[tuple[str, str, str]] = []

    def load_dataset(name: str, subset: str, split: str) -> list[dict]:
        asked.append((name, subset, split))
        return [json.loads(line) for line in (GOLDEN / f"{subset}.jsonl").read_text("utf-8").split("\n") if line]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert load_task("choubun/edinet_qa").make(tokenizer, 8000, "test", 0) == here
    assert asked == [("SakanaAI/ChouBun", "edinet_qa", "test")]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="ChouBun needs the package datasets"):
        load_task("choubun/wiki_qa").make(tokenizer, 8000, "test", 0)


def test_without_a_dictionary(monkeypatch: pytest.MonkeyPatch):
    from experiments.tasks.metrics import japanese

    japanese._tagger.cache_clear()
    monkeypatch.setitem(sys.modules, "unidic_lite", None)
    with pytest.raises(ModuleNotFoundError, match=r"unidic_lite: pip install 'namm\[bench\]'"):
        METRICS["qa_f1_ja"]("東京", ("東京",))
