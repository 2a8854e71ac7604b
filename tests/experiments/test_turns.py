"""StreamingLLM's and SirLLM's tasks: distances, options, win rates, users' files."""

import json
import re
import secrets
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from transformers import PreTrainedTokenizerFast

from experiments.evaluate import answer_depth
from experiments.tasks import load_task
from experiments.tasks.choices import read_choices
from experiments.tasks.dialogue import load, posed
from experiments.tasks.encoding import encode, prompt_length
from experiments.tasks.grocery import GROCERIES, common_sense, groceries
from experiments.tasks.metrics import score
from experiments.tasks.metrics.texts import choice
from experiments.tasks.rock_paper_scissors import HABITS, MOVES, RPS, beats, moves, reference_rates
from experiments.tasks.sample import Sample, held_in
from experiments.tasks.stream_eval import StreamEval, values
from tests.experiments.test_tasks import SPLITS, byte_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "dailydialog"
SEED = secrets.randbelow(10**6)  # fresh samples at every run


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(merges=2000, chat=True)


def lines(sample: Sample) -> dict[int, str]:
    return {int(k): v for k, v in re.findall(r"^line (\d+): REGISTER_CONTENT (\d+)$", sample.context, re.MULTILINE)}


@pytest.mark.parametrize("distance", [0, 5, 20])
def test_stream_eval_asks_at_its_distance(distance: int, tokenizer: PreTrainedTokenizerFast):
    sample = StreamEval(distance).make(tokenizer, 1500, "validation", SEED)
    listed = lines(sample)
    assert list(listed) == list(range(1, len(listed) + 1)) and len(listed) > 30
    assert sample.answers == (listed[len(listed) - distance],)
    assert re.findall(r"\d+", sample.question) == [str(len(listed) - distance)]
    assert len(set(listed.values())) == len(listed) and all(held_in(v, "validation") for v in listed.values())


def test_stream_eval_lengths_and_splits(tokenizer: PreTrainedTokenizerFast):
    short = load_task("stream-eval").make(tokenizer, 256, "test", SEED)
    assert prompt_length(tokenizer, short) + short.max_new_tokens <= 256
    assert short.answers == (lines(short)[1],), "fewer than twenty lines: the first one"
    found = [set(values(split).tolist()) for split in SPLITS]
    assert sum(map(len, found)) == len(set.union(*found)) == 90_000
    with pytest.raises(ValueError, match="length 20 is too short"):
        load_task("stream-eval").make(tokenizer, 20, "test", SEED)
    with pytest.raises(ValueError, match="distance: got -1"):
        StreamEval(-1)


def test_grocery_states_asks_and_distracts(tokenizer: PreTrainedTokenizerFast):
    letters = Counter()
    for index in range(12):
        sample = load_task("grocery").make(tokenizer, 1200, "test", SEED + index)
        (wish,) = sample.answers
        assert wish in groceries("test") and sample.context.count(wish) == 1
        turns = sample.context.split("\n\n")[1:-1]
        assert turns[0].endswith("Answer: OK") and wish in turns[0] and len(turns) > 8
        assert len(set(turns)) == len(turns), "no question comes twice before all have come"
        options = dict(re.findall(r"^([A-D])\. (.+)$", sample.question, re.MULTILINE))
        assert len(set(options.values())) == 4 and set(options.values()) <= set(groceries("test"))
        assert sample.target == f"{sample.target[0]}. {options[sample.target[0]]}" == f"{sample.target[0]}. {wish}"
        others = [name for name in options.values() if name != wish]
        assert score(sample.target + "\n" + others[0], sample) == 1.0
        assert not any(score(name + "\n" + wish, sample) for name in others)
        letters[sample.target[0]] += 1
    assert len(letters) > 1


def test_groceries_and_common_sense():
    assert len(set(GROCERIES)) == 53 and [len(groceries(split)) for split in SPLITS] == [33, 10, 10]
    assert not any(one in other for one in GROCERIES for other in GROCERIES if one != other)
    assert len({turn.stem for turn in common_sense()}) == len(common_sense()) >= 40
    assert min(Counter(turn.letter for turn in common_sense()).values()) >= 12, "no letter is right too often"
    text = " ".join(turn.ask() for turn in common_sense()).lower()
    assert not any(name in text for name in GROCERIES), "not even inside a word: answers are found by text"
    assert all(len(set(turn.options)) == 5 for turn in common_sense())


def row(**change: object) -> dict:
    listed = [{"label": letter, "text": f" reply {letter} "} for letter in "ABCD"]
    return {"id": "1_1", "question": {"stem": "Well ?", "choices": listed}, "answerKey": "B"} | change


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ([], "line 2: not in the form"),
        (row(question={}), "line 2: not in the form .*'stem'"),
        (row(id=3), "line 2: got id 3"),
        (row(question=row()["question"] | {"choices": row()["question"]["choices"][:3]}), "line 2: key 'label'"),
        (row(answerKey="E"), "line 2: key 'answerKey': got 'E'"),
    ],
)
def test_damaged_choices(line: object, message: str, tmp_path: Path):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(row()) + "\n")
    assert read_choices(path, 4)[0].right == "reply B"
    path.write_text(json.dumps(row()) + "\n" + (line if isinstance(line, str) else json.dumps(line)))
    with pytest.raises(ValueError, match=message):
        read_choices(path, 4)
    path.write_text("\n")
    with pytest.raises(ValueError, match="got no line"):
        read_choices(path, 4)


def test_choice():
    for text in ("P", "P.", "(P)", "I play P, not R", "paper: P"):
        assert choice(text, ("P",), MOVES) == 1.0 and choice(text, ("R",), MOVES) == 0.0
    for text in ("", "Paper", "p", "Ropes"):
        assert choice(text, ("P",), MOVES) == choice(text, ("R",), MOVES) == 0.0


def test_what_beats_what(tokenizer: PreTrainedTokenizerFast):
    assert [beats(move) for move in "RPS"] == ["P", "S", "R"]
    sample = load_task("rps/rock").make(tokenizer, 600, "test", SEED)
    loser = next(move for move in MOVES if beats(move) == sample.answers[0])
    assert f"{sample.answers[0]} beats {loser}" in sample.context
    assert f"round {len(moves(sample)) + 1}." in sample.question and len(moves(sample)) > 20
    assert answer_depth(encode(tokenizer, sample, "chat")) is None, "a letter has no place"


def test_players_keep_their_habits(tokenizer: PreTrainedTokenizerFast):
    """With 5 standard deviations of room: false alarms come once in a million."""
    for task in RPS:
        samples = [task.make(tokenizer, 1000, "train", SEED + i) for i in range(12)]
        made = [move for sample in samples for move in moves(sample)]
        for move, share in zip(MOVES, HABITS[task.player], strict=True):
            room = 5 * (share * (1 - share) / len(made)) ** 0.5
            assert abs(made.count(move) / len(made) - share) < room


def test_reference_rates():
    def game(history: str, following: str) -> Sample:
        rounds = "\n".join(f"Round {i}: I chose {move}" for i, move in enumerate(history, 1))
        return Sample("rps/rock", f"R beats S.\n{rounds}\n", "?", "", (beats(following),), "", "choice", 4, MOVES)

    games = [game("RRS", "R"), game("RPP", "R"), game("SSRR", "S"), game("P", "P")]
    rates = reference_rates(games)
    expected = {"always R": 0.25, "always P": 0.5, "always S": 0.25, "uniform": 1 / 3, "frequency": 0.75}
    assert rates == pytest.approx(expected)
    with pytest.raises(ValueError, match="expected samples of rps/ tasks"):
        reference_rates([])


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NAMM_DATA", str(GOLDEN))
    load.cache_clear()
    yield
    load.cache_clear()


def test_dialogue_shows_earlier_turns(data: None, tokenizer: PreTrainedTokenizerFast):
    task, turns = load_task("dialogue"), load(GOLDEN / "dailydialog.jsonl")
    for split, index in (("train", 10), ("test", 5), ("validation", 1)):
        mine = [turn for turn in turns if held_in(turn.id.split("_")[0], split)]
        sample, asked = task.make(tokenizer, 3000, split, index), mine[index]
        assert sample.question == asked.ask() and sample.answers == (asked.letter,)
        assert score(f" {asked.letter}. {asked.right}", sample) == 1.0 and len(sample.classes) == 4
        before = f"{mine[index - 1].ask()}\nAnswer: {mine[index - 1].letter}\n\n"
        begins = asked.id.endswith("_1")
        assert sample.context.removesuffix("A new dialogue begins.\n\n" * begins).endswith(before)
        own = [
            turn.id for turn in mine if turn.ask() in sample.context and turn.id.split("_")[0] == asked.id.split("_")[0]
        ]
        assert all(name < asked.id for name in own), "nothing of what follows the reply"
        need = prompt_length(tokenizer, sample) + sample.max_new_tokens
        shorter = task.make(tokenizer, need - 1, split, index)
        assert len(shorter.context) < len(sample.context) and prompt_length(tokenizer, shorter) + 4 < need
    assert task.make(tokenizer, 3000, "test", 5) == task.make(tokenizer, 3000, "test", 11), "round and round"


def test_dialogue_errors(
    tmp_path: Path, data: None, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast
):
    with pytest.raises(ValueError, match="length 30 is too short"):
        load_task("dialogue").make(tokenizer, 30, "test", 0)
    monkeypatch.setenv("NAMM_DATA", str(tmp_path))
    (tmp_path / "dailydialog.jsonl").write_text(json.dumps(row(id="first")))
    with pytest.raises(ValueError, match=r"dailydialog.jsonl: key 'id': got 'first'"):
        load_task("dialogue").make(tokenizer, 500, "test", 0)
    load.cache_clear()
    (tmp_path / "dailydialog.jsonl").write_text(json.dumps(row()))
    with pytest.raises(ValueError, match="no dialogue belongs to the split test"):
        load_task("dialogue").make(tokenizer, 500, "test", 0)


def test_dialogue_from_the_hub(data: None, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast):
    """With a stand-in for the package: rows come through, and both failures say what to do."""
    monkeypatch.delenv("NAMM_DATA")
    package = ModuleType("datasets")
    rows = {part: [[f"{part} {i} says {t} ." for t in range(5)] for i in range(30)] for part in ("test", "validation")}
    package.load_dataset = lambda name, split: {"dialog": rows[split]}  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "datasets", package)
    assert load_task("dialogue").make(tokenizer, 400, "train", 0).question.startswith("test 0 says 0 .\nA. ")
    load.cache_clear()
    package.load_dataset = lambda name, split: {}  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(FileNotFoundError, match=r"cannot load .*'dialog'.*NAMM_DATA"):
        load_task("dialogue").make(tokenizer, 400, "train", 0)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"namm\[bench\].*NAMM_DATA"):
        load_task("dialogue").make(tokenizer, 400, "train", 0)


def test_posed_replies():
    dialogues = [[f" {i} {t} ? " for t in range(2 + i)] for i in range(8)]
    others = [["yes", "no"], ["maybe", "never", "1 1 ?"]]
    turns = posed(dialogues, others)
    assert [turn.id for turn in turns] == [f"{i}_{t}" for i in range(8) for t in range(1, 2 + i, 2)]
    for turn in turns:
        number, place = turn.id.split("_")
        assert turn.right == f"{number} {place} ?" and turn.stem == f"{number} {int(place) - 1} ?"
        assert len(set(turn.options)) == 4 and set(turn.options) - {turn.right} <= {word for d in others for word in d}
    assert posed(dialogues, others) == turns
