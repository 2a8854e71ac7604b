"""LongBench v2 on a small sample of our own in its form: prompts, cuts, splits, sources and errors."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from experiments.tasks import Sample, load_task
from experiments.tasks.encoding import prompt_length
from experiments.tasks.longbench_v2 import load
from experiments.tasks.metrics import score
from experiments.tasks.sample import held_in
from tests.experiments.test_tasks import SPLITS, byte_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "longbench_v2"
ROWS: list[dict] = json.loads((GOLDEN / "data.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(merges=300)


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NAMM_DATA", str(GOLDEN))
    load.cache_clear()


def made(tokenizer: PreTrainedTokenizerFast, length: int = 4000) -> Sample:
    return load_task("longbench-v2").make(tokenizer, length, "test", 0)


def test_prompt_and_metric(tokenizer: PreTrainedTokenizerFast):
    assert [len(load(str(GOLDEN))[split]) for split in SPLITS] == [4, 1, 1]
    row = next(row for row in ROWS if held_in(row["_id"], "test"))
    sample = made(tokenizer)
    assert sample.context.endswith(f"\n\n{row['context'].strip()}") and sample.context.startswith("Here is")
    assert f"Question: {row['question'].strip()}\n(A) " in sample.question and "{" not in sample.question
    right = row[f"choice_{row['answer']}"]
    assert f"({row['answer']}) {right}\n" in sample.question
    assert score(sample.target, sample) == 1 and score(right, sample) == 0
    letters = [letter for letter in "ABCD" if score(f"The correct answer is {letter}", sample)]
    assert letters == [row["answer"]]


def test_cut_keeps_both_ends(tokenizer: PreTrainedTokenizerFast):
    whole = made(tokenizer)
    length = prompt_length(tokenizer, whole)
    sample = made(tokenizer, length)
    assert length - 12 < prompt_length(tokenizer, sample) + 128 <= length
    assert sample.question == whole.question and sample.context.endswith(whole.context[-20:])
    assert sample.context.startswith(whole.context[:20])


def test_official_wording_is_used_where_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
):
    row = next(row for row in ROWS if held_in(row["_id"], "test")) | {"question": "Why {context} $C_A$?"}
    (tmp_path / "data.json").write_text(json.dumps([row]))
    (tmp_path / "0shot.txt").write_text("Text: $DOC$\nAsk: $Q$ $C_A$|$C_B$|$C_C$|$C_D$")
    monkeypatch.setenv("NAMM_DATA", str(tmp_path))
    sample = made(tokenizer)
    assert sample.context == f"Text: {row['context'].strip()}"
    choices = "|".join(row[f"choice_{letter}"] for letter in "ABCD")
    assert sample.question == f"\nAsk: Why {{context}} $C_A$? {choices}", "what is filled in is not filled again"
    (tmp_path / "0shot.txt").write_text("Ask: $Q$")
    with pytest.raises(ValueError, match=r"0shot\.txt: got .*expected a text with \{context\}, once"):
        made(tokenizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "E"}, "entry 0: key 'answer': got 'E', expected one of A, B, C, D"),
        ({"choice_C": None}, "entry 0: key 'choice_C'"),
        ({"extra": 1}, "entry 0: unknown key 'extra'"),
    ],
)
def test_damaged_files(change: dict, message: str, tmp_path: Path):
    (tmp_path / "data.json").write_text(json.dumps([ROWS[0] | change]))
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path))


def test_missing_data(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"data\.json: not found; the folder of --data-dir or NAMM_DATA"):
        load(str(tmp_path))
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(ValueError, match="got dict, expected a list"):
        load(str(tmp_path))
    (tmp_path / "data.json").write_text("[")
    with pytest.raises(ValueError, match="not valid JSON"):
        load(str(tmp_path))


def test_hub(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast):
    here = made(tokenizer)
    monkeypatch.delenv("NAMM_DATA")
    asked: list[tuple[str, str, str]] = []

    def download(hub: str, name: str, repo_type: str) -> str:
        asked.append((hub, name, repo_type))
        return str(GOLDEN / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert made(tokenizer) == here and asked == [("THUDM/LongBench-v2", "data.json", "dataset")]
