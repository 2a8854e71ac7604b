"""RULER's tasks: settings, counts in the text, fitting, and real corpora in their official form."""

import json
import re
import secrets
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from experiments.tasks import load_task, ruler_words
from experiments.tasks.encoding import prompt_length
from experiments.tasks.fitting import largest
from experiments.tasks.haystack import pieces
from experiments.tasks.ruler import RULER
from experiments.tasks.ruler_qa import invent
from experiments.tasks.ruler_shuffle import shuffled
from experiments.tasks.ruler_words import draw_words, zipf_counts
from experiments.tasks.sample import Sample, Split, Task, held_in
from tests.experiments.test_tasks import SPLITS, byte_tokenizer

SEED = secrets.randbelow(10**6)  # fresh samples at every run
NEW_TOKENS = {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}  # 128 for all others
ANSWERS = {"niah_multivalue": 4, "niah_multiquery": 4, "vt": 5, "cwe": 10, "fwe": 3}  # 1 for all others


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(merges=2000)


def make(name: str, tokenizer: PreTrainedTokenizerFast, length: int = 2048) -> Sample:
    return load_task(f"ruler/{name}").make(tokenizer, length, "test", SEED)


def test_all_thirteen():
    assert len({task.name for task in RULER}) == 13 == sum(load_task(task.name) is task for task in RULER)


@pytest.mark.parametrize("task", RULER, ids=lambda task: task.name)
def test_settings_and_lengths(task: Task, tokenizer: PreTrainedTokenizerFast):
    name, room = task.name.removeprefix("ruler/"), 110
    if getattr(task, "source", "") == "text":  # filled sentence by sentence: the longest one may just not have fitted
        room = max(len(tokenizer(f" {piece}", add_special_tokens=False).input_ids) for piece in pieces("text", "test"))
    for length in (400, 2048, 6000):
        sample = task.make(tokenizer, length, "test", SEED)
        used = prompt_length(tokenizer, sample) + sample.max_new_tokens
        assert length - room < used <= length
        assert len(set(sample.answers)) == ANSWERS.get(name, 1) == len(sample.answers)
        assert sample.metric == ("contains_any" if name.startswith("qa") else "contains_all")
        assert sample.prefix.rstrip(":").split()[-1] in ("is", "are", "namely", "Answer")
        if length > 1000:
            assert sample.max_new_tokens == NEW_TOKENS.get(name, 128)
    assert task.make(tokenizer, 2048, "test", SEED + 1).answers != task.make(tokenizer, 2048, "test", SEED).answers


def test_needle_settings(tokenizer: PreTrainedTokenizerFast):
    def count(name: str) -> tuple[int, int]:
        found = re.findall(r"special magic (?:number|uuid)s for (\S+) is (\S+)\.", make(name, tokenizer).context)
        return len(found), len({key for key, _ in found})

    singles = ["niah_single_1", "niah_single_2", "niah_single_3"]
    assert [count(name) for name in singles] == [(1, 1)] * 3
    assert count("niah_multikey_1") == count("niah_multiquery") == (4, 4) and count("niah_multivalue") == (4, 1)
    for name in ("niah_multikey_2", "niah_multikey_3"):
        lines, keys = count(name)
        assert lines == keys > 10
    uuid = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    assert all(re.fullmatch(uuid, make(name, tokenizer).answers[0]) for name in ("niah_single_3", "niah_multikey_3"))
    assert "kettle sings" in make(singles[0], tokenizer).context
    assert "kettle sings" not in make(singles[1], tokenizer).context


def test_variable_chain(tokenizer: PreTrainedTokenizerFast):
    sample = make("vt", tokenizer)
    links = re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?(\w+)\.", sample.context)
    value = sample.question.split()[7]
    assert [name for name, _ in links] == list(sample.answers), "in order"
    assert [source for _, source in links] == [value, *sample.answers[:-1]]
    assert held_in(value, "test") and value != "12345"
    shown = re.findall(r"VAR ([A-Z]{3}) = ", sample.context)
    assert len(shown) == 5 and " ".join(shown) in sample.context, "the example gives its answer"
    assert "VAR" not in re.sub(r"VAR [A-Z]{5} = (VAR [A-Z]{5}|\d{5})\.", "", make("vt", tokenizer, 512).context)


@pytest.mark.parametrize(("length", "often", "seldom"), [(512, 2, 1), (2048, 6, 1), (6000, 30, 3)])
def test_common_words(length: int, often: int, seldom: int, tokenizer: PreTrainedTokenizerFast):
    sample = make("cwe", tokenizer, length)
    listed = re.findall(r"(\d+)\. (\S+)", sample.context.strip().split("\n")[-1])
    assert [int(number) for number, _ in listed] == list(range(1, len(listed) + 1))
    counts = Counter(word for _, word in listed)
    assert {word for word, n in counts.items() if n == often} == set(sample.answers)
    assert all(n in (often, seldom) for n in counts.values()) and all(held_in(word, "test") for word in sample.answers)
    assert sample.context.count("numbered list") == (1 if length < 1024 else 2)


def test_the_released_shuffle():
    """Which item stands at each place after `random.Random(42).shuffle` of ten, from Python's own generator."""
    rng = np.random.default_rng(SEED)
    for _ in range(2):
        assert shuffled(10, "released", rng).tolist() == [7, 3, 2, 8, 5, 6, 9, 4, 0, 1]
    assert rng.bit_generator.state == np.random.default_rng(SEED).bit_generator.state
    assert shuffled(200, "sample", rng).tolist() != shuffled(200, "sample", rng).tolist()


def released_places(count: int, items: int) -> list[int]:
    """Where the first items of `count` stand in the release."""
    order = shuffled(count, "released", np.random.default_rng()).tolist()
    return [order.index(item) for item in range(items)]


@pytest.mark.parametrize("index", [SEED, SEED + 1], ids=["one", "next"])
def test_released_words(index: int, tokenizer: PreTrainedTokenizerFast):
    for length, often in ((512, 2), (2048, 6), (6000, 30)):
        fresh, sample = (load_task(f"ruler/cwe{x}").make(tokenizer, length, "test", index) for x in ("", ":released"))
        assert sample.task == "ruler/cwe:released" and sample.answers == fresh.answers
        assert sample.context != fresh.context
        for part, text in enumerate(sample.context.strip().split("Memorise those.\n")[1:]):
            listed = [word.split()[0] for word in re.split(r"(?:^| )\d+\. ", text.split("\n")[0])[1:]]
            example = length > 1000 and part == 0
            times, common = (10 if length > 4000 else 3, None) if example else (often, sample.answers)
            found = [listed[place] for place in released_places(len(listed), 10 * times)]
            assert found == list(common or found[:10]) * times and listed.count(found[0]) == times
    sample = load_task("ruler/fwe:released").make(tokenizer, 2048, "test", index)
    coded = sample.context.split("in it. ")[1].split()
    counts = zipf_counts(sum(1 for _ in coded), 10)  # a lower bound: rounding down loses words
    found = [coded[place] for place in released_places(len(coded), sum(counts[:3]))]
    assert list(dict.fromkeys(found)) == ["....", *sample.answers[:2]]
    assert sample.answers == load_task("ruler/fwe").make(tokenizer, 2048, "test", index).answers


@pytest.mark.parametrize("documents", [1, 2])
def test_released_documents(documents: int, tokenizer: PreTrainedTokenizerFast):
    for index in range(SEED, SEED + 3):
        sample = load_task(f"ruler/qa_{documents}:released").make(tokenizer, 2048, "test", index)
        listed = re.split(r"Document \d+:\n", sample.context)[1:]
        place = released_places(len(listed), 1)[0]
        assert [i for i, text in enumerate(listed) if sample.answers[0] in text] == [place]
        fresh = load_task(f"ruler/qa_{documents}").make(tokenizer, 2048, "test", index)
        assert (fresh.question, fresh.answers) == (sample.question, sample.answers) and fresh.context != sample.context


def test_words_do_not_run_out():
    common, rare = draw_words(np.random.default_rng(SEED), "validation", 20_000)
    assert len(common) == 10 and len(rare) == 20_000 and len({*common, *rare}) == 20_010


def test_frequent_words(tokenizer: PreTrainedTokenizerFast):
    for length in (400, 4096):
        sample = make("fwe", tokenizer, length)
        ranked = Counter(sample.context.split("in it. ")[1].split()).most_common()
        counts = [n for _, n in ranked] + [0, 0]
        assert [word for word, _ in ranked[:4]] == ["....", *sample.answers] and counts[3] > counts[4]
        assert counts[0] / counts[1] == pytest.approx(4, rel=0.3)


def test_frequencies():
    # 1000 / (pi^2 / 6) = 607.9, over 1, 4, 9, 16, 25
    assert zipf_counts(1000, 5) == [607, 151, 67, 37, 24]
    assert zipf_counts(30, 6) == [18, 4, 2, 1, 0, 0]
    assert zipf_counts(45, 6) == [27, 6, 3, 1, 0, 0], "27.4 / 25 would tie with rank 4"


def test_made_up_questions():
    rng = np.random.default_rng(SEED)
    for _ in range(20):
        for documents in (1, 2):
            question = invent(rng, "test", documents, 200)
            assert len(question.gold) == documents and len(set(question.others)) == 200
            (answer,) = question.answers
            assert answer in question.gold[0] and answer not in question.text
            assert not any(answer in other for other in (*question.gold[1:], *question.others))
            town = question.gold[0].split()[0]
            assert held_in(town, "test") and all(town in text for text in question.gold)
            assert not any(town in other for other in question.others)
            named = re.findall(r"[A-Z]\w+ [A-Z]\w+|[A-Z]\w+", question.text.removeprefix("On").removeprefix("Who"))
            assert any(name in question.gold[-1] for name in named)


def test_real_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast):
    def asked(article: int, i: int) -> dict:
        answers = [{"text": f"value {article} {i}", "answer_start": 0}] * 2
        return {"question": f"Question {article} {i}?", "answers": answers, "is_impossible": i == 3}

    squad = [
        {"paragraphs": [{"context": f"Gold {a} {i}. " * 6, "qas": [asked(a, i)]} for i in range(4)]} for a in range(15)
    ]
    hotpot = [
        {
            "question": f"Hop {i}?",
            "answer": f"value {i}",
            "context": [[f"Title {i} {k}", ["A. ", "B."]] for k in range(10)],
        }
        for i in range(60)
    ]
    (tmp_path / "squad.json").write_text(json.dumps({"data": squad}))
    (tmp_path / "hotpotqa.json").write_text(json.dumps(hotpot))
    monkeypatch.setenv("NAMM_DATA", str(tmp_path))
    seen = {
        split: {load_task("ruler/qa_1").make(tokenizer, 400, split, i).question for i in range(60)} for split in SPLITS
    }
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 45, "only what has an answer"
    sample = load_task("ruler/qa_1").make(tokenizer, 600, "train", 0)
    article, number = re.findall(r"\d+", sample.question)
    assert sample.answers == (f"value {article} {number}",) and f"Gold {article} {number}." in sample.context
    assert all(f"Gold {article} {other}." in sample.context for other in range(4)), "its own article comes first"
    assert sample.context.count("Document") > 5
    sample = load_task("ruler/qa_2").make(tokenizer, 600, "train", 0)
    (which,) = re.findall(r"\d+", sample.question.split("Question:")[1])
    assert all(f"Title {which} {k}\nA. B." in sample.context for k in range(10)) and sample.context.count("Title") > 10
    (other := tmp_path / "other").mkdir()
    (other / "squad.json").write_text("{}")
    monkeypatch.setenv("NAMM_DATA", str(other))
    with pytest.raises(ValueError, match=r"squad.json: not in the official form"):
        load_task("ruler/qa_1").make(tokenizer, 600, "train", 1)


def test_largest_is_the_largest(tokenizer: PreTrainedTokenizerFast):
    rng = np.random.default_rng(SEED)
    words = rng.choice(["a", "of", "Alice", "rabbit-hole", "..."], 300)

    def build(size: int) -> Sample:
        return Sample("own", " ".join(words[:size]), "?", "", ("x",), "x", "contains_any", 5)

    needs = np.array([prompt_length(tokenizer, build(size)) + 5 for size in range(301)])
    for length in rng.integers(20, 600, size=5):
        expected = build(int(np.flatnonzero(needs <= length)[-1]))
        assert largest(tokenizer, int(length), build, 0, 300) == expected
    with pytest.raises(ValueError, match="own: length 5 is too short"):
        largest(tokenizer, 5, build, 0, 300)


@pytest.mark.parametrize("split", SPLITS)
def test_common_words_do_not_stand_in_the_question(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("appear", "list", "most", "pear", "word", *ruler_words.vocabulary()[::100])
    monkeypatch.setattr(ruler_words, "vocabulary", lambda: words)
    rng = np.random.default_rng()
    drawn = {word for _ in range(200) for word in ruler_words.draw_words(rng, split, 0)[0]}
    assert drawn and not any(word in ruler_words.QUESTION for word in drawn)
