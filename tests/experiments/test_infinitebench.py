"""InfiniteBench on a small sample of our own in its form: prompts, cuts, splits, sources and errors."""

import json
import re
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from experiments.tasks import load_task
from experiments.tasks.encoding import prompt_length
from experiments.tasks.infinitebench import CHOICES, METRIC, load
from experiments.tasks.metrics import score
from experiments.tasks.sample import Sample, held_in
from tests.experiments.test_tasks import SPLITS, byte_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "infinitebench"
ROOM = 40_000  # tokens; Math.Calc generates 30,000


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(merges=1000)


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NAMM_DATA", str(GOLDEN))
    load.cache_clear()


def lines(subset: str) -> list[dict]:
    return [json.loads(line) for line in (GOLDEN / f"{subset}.jsonl").read_text("utf-8").split("\n") if line]


def first(subset: str, tokenizer: PreTrainedTokenizerFast) -> Sample:
    return load_task(f"infinitebench/{subset}").make(tokenizer, ROOM, "test", 0)


@pytest.mark.parametrize("subset", METRIC)
def test_prompt_and_metric(subset: str, tokenizer: PreTrainedTokenizerFast):
    row = next(row for row in lines(subset) if held_in(str(row["id"]), "test"))
    sample = first(subset, tokenizer)
    assert sample.context.endswith(row["context"]) and len(sample.context) > len(row["context"]) + 8
    prompt = sample.context + sample.question
    assert all(option in sample.question for option in row["options"])
    assert not re.search(r"\{[A-Za-z_]+\}", prompt.replace(row["context"], ""))
    assert (sample.metric, sample.max_new_tokens) == METRIC[subset]
    assert score(sample.target, sample) == pytest.approx(1)
    assert score("nothing", sample) == 0 and score("", sample) == 0
    if subset in CHOICES:
        letter = "ABCD"[row["options"].index(sample.answers[0])]
        assert sample.answers == (sample.answers[0], letter) and f"\n{letter}. {sample.answers[0]}\n" in sample.question


def test_questions_reach_the_prompt(tokenizer: PreTrainedTokenizerFast):
    for subset in ("passkey", "number_string", "kv_retrieval", "longbook_qa_eng", "longbook_qa_chn", "math_find"):
        row = next(row for row in lines(subset) if held_in(str(row["id"]), "test"))
        assert row["input"] in first(subset, tokenizer).question
    run = first("code_run", tokenizer)
    assert "func_0(32)" in run.question and "func_0" in run.context.split("\n")[0]
    assert run.answers == ("-8",) and score("It returns: -8.", run) == 1


def test_which_answers_count(tokenizer: PreTrainedTokenizerFast):
    assert len(first("longbook_qa_eng", tokenizer).answers) == 2
    assert first("longdialogue_qa_eng", tokenizer).answers == ("RUTH",)
    calc = first("math_calc", tokenizer)
    assert len(calc.answers) == 13 and calc.target == f"[{', '.join(calc.answers)}]"
    assert calc.answers == tuple(map(str, lines("math_calc")[5]["answer"][0])), "a list in a list"


@pytest.mark.parametrize("subset", ["longbook_choice_eng", "longbook_qa_chn"])
def test_cut_keeps_both_ends(subset: str, tokenizer: PreTrainedTokenizerFast):
    task = load_task(f"infinitebench/{subset}")
    whole = task.make(tokenizer, ROOM, "train", 1)
    need = prompt_length(tokenizer, whole) + whole.max_new_tokens
    assert task.make(tokenizer, need, "train", 1) == whole
    sample = task.make(tokenizer, need * 3 // 4, "train", 1)
    assert sample.question == whole.question and sample.context != whole.context
    assert prompt_length(tokenizer, sample) + sample.max_new_tokens <= need * 3 // 4
    assert sample.context[:20] == whole.context[:20] and sample.context[-20:] == whole.context[-20:]


def test_splits(tokenizer: PreTrainedTokenizerFast):
    parts = load("passkey", str(GOLDEN))
    assert [len(parts[split]) for split in SPLITS] == [4, 1, 1]
    task = load_task("infinitebench/passkey")
    assert task.make(tokenizer, ROOM, "train", 5) == task.make(tokenizer, ROOM, "train", 1), "round and round"
    with pytest.raises(ValueError, match="index: got -1"):
        task.make(tokenizer, ROOM, "test", -1)
    with pytest.raises(ValueError, match="is too short"):
        load_task("infinitebench/math_calc").make(tokenizer, 30_000, "test", 0)


def with_files(folder: Path, monkeypatch: pytest.MonkeyPatch, templates: str, *subsets: str) -> None:
    for subset in subsets:
        (folder / f"{subset}.jsonl").write_text((GOLDEN / f"{subset}.jsonl").read_text("utf-8"), "utf-8")
    (folder / "prompt.py").write_text(templates, "utf-8")
    monkeypatch.setenv("NAMM_DATA", str(folder))


def test_official_wording_is_used_where_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
):
    templates = (
        "raise SystemExit('is never run')\nother = {}\nyarn_mistral_templates = {\n"
        "'math_find': '{prefix} {context} {input}', 'code_run': '{func}: {context} {func_call}',\n"
        "'passkey': '{input}', 'kv_retrieval': '{context} {prefix}', 'number_string': 3,  # noqa\n"
        "'code_debug': '{context} ' 'B. {OPTION_B}'}\n"
    )
    subsets = ("math_find", "code_run", "passkey", "kv_retrieval", "code_debug", "number_string", "math_calc")
    with_files(tmp_path, monkeypatch, templates, *subsets)
    assert first("math_find", tokenizer).context.startswith("What is the largest number in the following list? [")
    run = first("code_run", tokenizer)
    assert run.context.startswith("func_0: def") and run.question == " func_0(32)"
    assert first("code_debug", tokenizer).question == f" B. {lines('code_debug')[5]['options'][1]}"
    for subset, message in {
        "passkey": r"prompt\.py: yarn_mistral_templates, key 'passkey': got '\{input\}', expected a text with",
        "kv_retrieval": r"unknown field \{prefix\}; known fields are input, question",
        "number_string": "got 3, expected a text",
        "math_calc": r"not found \(KeyError",
    }.items():
        with pytest.raises(ValueError, match=message):
            first(subset, tokenizer)
    with_files(tmp_path, monkeypatch, "templates = (")
    with pytest.raises(ValueError, match=r"not found \(SyntaxError"):
        first("math_find", tokenizer)


@pytest.mark.parametrize(
    ("subset", "change", "message"),
    [
        ("passkey", {"answer": []}, "line 1: key 'answer'"),
        ("passkey", {"answer": None}, "line 1: key 'answer'"),
        ("passkey", {"answer": [True]}, "line 1: key 'answer'"),
        ("passkey", {"context": None}, "line 1: key 'context'"),
        ("passkey", {"id": None}, "line 1: key 'id'"),
        ("passkey", {"extra": 1}, "line 1: unknown key 'extra'"),
        ("code_run", {"input": "What?"}, "line 1: key 'input'"),
        ("code_debug", {"options": ["one"]}, "line 1: key 'options'"),
        ("code_debug", {"answer": "none of them"}, "line 1: key 'answer'.*expected one of the options"),
    ],
)
def test_damaged_files(subset: str, change: dict, message: str, tmp_path: Path):
    (tmp_path / f"{subset}.jsonl").write_text(json.dumps(lines(subset)[0] | change))
    with pytest.raises(ValueError, match=message):
        load(subset, str(tmp_path))


def test_missing_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast):
    monkeypatch.setenv("NAMM_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"passkey\.jsonl: not found; the folder of --data-dir or NAMM_DATA"):
        first("passkey", tokenizer)


def test_hub(monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast):
    """With a stand-in for the hub: its files are read as they are, and failure says what to do."""
    here = first("math_find", tokenizer)
    monkeypatch.delenv("NAMM_DATA")

    def download(hub: str, name: str, repo_type: str) -> str:
        if (hub, name, repo_type) != ("xinrongzhang2022/InfiniteBench", "math_find.jsonl", "dataset"):
            raise ConnectionError("offline")
        return str(GOLDEN / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert first("math_find", tokenizer) == here
    with pytest.raises(FileNotFoundError, match=r"cannot load passkey\.jsonl of .*offline.*NAMM_DATA"):
        first("passkey", tokenizer)
