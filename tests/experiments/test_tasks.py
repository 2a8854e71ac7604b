"""Tasks: fit, determinism, disjoint splits, cutting of token ids, metrics, users' own files."""

import json
import secrets
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from experiments.tasks import TASKS, Sample, load_task
from experiments.tasks.encoding import Template, collate, encode, prompt_length
from experiments.tasks.haystack import pieces, window
from experiments.tasks.metrics import METRICS, score
from experiments.tasks.needles import draw_keys
from experiments.tasks.recall import NOUNS, draw_pairs, keys_of
from experiments.tasks.sample import held_in

CHAT = (
    "{{ '<s>' }}{% for m in messages if m['content'] %}"
    "{{ '<|' + m['role'] + '|>\n' + m['content'] | trim + '<e>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SEED = secrets.randbelow(10**6)  # fresh samples at every run
SPLITS = ("train", "validation", "test")


def byte_tokenizer(merges: int, chat: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a begin token, trained on the bundled text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=258 + merges, initial_alphabet=alphabet, special_tokens=["<s>", "<e>"], show_progress=False
    )
    backend.train_from_iterator(pieces("text", "train")[:200], trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<e>")
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerFast:
    return byte_tokenizer(merges=300)


@pytest.fixture(scope="module")
def chat() -> PreTrainedTokenizerFast:
    return byte_tokenizer(merges=2000, chat=True)


@pytest.mark.parametrize("name", [name for name in TASKS if not name.startswith("code-completion")])
def test_every_task_fits_and_holds_its_answers(name: str, chat: PreTrainedTokenizerFast):
    task = load_task(name)
    for length in (768, 1500):
        sample = task.make(chat, length, "test", SEED)
        encoded = encode(chat, sample, "chat")
        used = len(encoded.context) + len(encoded.question) + sample.max_new_tokens
        assert length - 150 < used <= length, "must fill the length up to one sentence"
        assert all(answer in (sample.classes or sample.context) for answer in sample.answers)
        listed = name == "grocery" or sample.classes != ()  # among the options
        assert all((answer in sample.question) == listed for answer in sample.answers)
        assert score(sample.target, sample) == 1.0
        assert len(encoded.target) <= sample.max_new_tokens + 1  # the full stop may stay unsaid
        assert task.make(chat, length, "test", SEED) == sample
        assert task.make(chat, length, "test", SEED + 1) != sample


@pytest.mark.parametrize("name", ["passkey", "niah-single-noise", "pocket-recall"])
def test_short_lengths(name: str, chat: PreTrainedTokenizerFast):
    sample = load_task(name).make(chat, 160, "train", SEED)
    assert prompt_length(chat, sample) + sample.max_new_tokens <= 160
    with pytest.raises(ValueError, match="length 20 is too short"):
        load_task(name).make(chat, 20, "train", SEED)


def test_needle_depths_are_spread(chat: PreTrainedTokenizerFast):
    depths = []
    for index in range(80):
        sample = load_task("niah-single-noise").make(chat, 768, "train", SEED + index)
        depths.append(sample.context.index(sample.answers[0]) / len(sample.context))
    assert min(depths) < 0.2 and max(depths) > 0.8 and 0.35 < np.mean(depths) < 0.65


def test_forms_of_the_needle(plain: PreTrainedTokenizerFast):
    expected = {"single": (1, 1), "multikey": (4, 1), "multivalue": (4, 4), "multiquery": (4, 4)}
    for form, (hidden, asked) in expected.items():
        sample = load_task(f"niah-{form}").make(plain, 1500, "validation", SEED)
        assert sample.context.count("magic number for") == hidden and len(set(sample.answers)) == asked


def test_splits_are_disjoint():
    texts = [set(pieces("text", split)) for split in SPLITS]
    assert all(len(text) > 300 for text in texts)
    lines = set.union(*texts)
    shared = sum(map(len, texts)) - len(lines)
    assert shared <= 5  # short refrains of the book itself
    rng = np.random.default_rng(SEED)
    keys = [set(draw_keys(rng, split, 300)) for split in SPLITS]
    for split, drawn in zip(SPLITS, keys, strict=True):
        assert len(drawn) == 300 and all(held_in(key, other) == (other == split) for key in drawn for other in SPLITS)
    pairs = [{(a, n) for a in range(16) for n in keys_of(split, a)} for split in SPLITS]
    assert [len(p) for p in pairs] == [12 * 16, 32, 32] and len(set.union(*pairs)) == 256
    for split in SPLITS:
        drawn = draw_pairs(rng, split, 12)
        assert len({word for key, _ in drawn for word in key.split()}) == 24
        assert all(key.split()[1] in NOUNS for key, _ in drawn)


def test_window_takes_the_longest_run():
    rng = np.random.default_rng(SEED)
    for _ in range(50):
        counts, budget = rng.integers(1, 20, size=rng.integers(1, 9)), int(rng.integers(0, 200))
        start = int(rng.integers(len(counts)))
        taken, total = [], 0
        while total + counts[(start + len(taken)) % len(counts)] <= budget:
            total += counts[(start + len(taken)) % len(counts)]
            taken.append((start + len(taken)) % len(counts))
        assert window(counts, start, budget).tolist() == taken


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_encoding_is_a_cut_of_the_whole_prompt(template: Template, chat: PreTrainedTokenizerFast):
    for name in ("niah-multiquery", "passkey", "pocket-recall"):
        sample = load_task(name).make(chat, 900, "train", SEED)
        encoded = encode(chat, sample, template)
        if template == "chat":
            user = f"<|user|>\n{(sample.context + sample.question).strip()}<e>\n"
            text = f"<s>{user}<|assistant|>\n{sample.prefix}"
        else:
            text = "<s>" + sample.context + sample.question + ("\n" + sample.prefix if sample.prefix else "")
        gap = "" if text.endswith("\n") else " "
        whole = chat(text + gap + sample.target, add_special_tokens=False)["input_ids"]
        prompt = np.concatenate([encoded.context, encoded.question])
        assert np.concatenate([prompt, encoded.target]).tolist() == whole
        assert prompt.tolist() == chat(text, add_special_tokens=False)["input_ids"]
        assert str(chat.decode(encoded.context)).endswith(
            sample.context.strip()[-20:] + sample.context[-1:].strip(" .")
        )
        assert str(chat.decode(encoded.target)).strip() == sample.target
        assert sample.question.strip() in chat.decode(encoded.question)


def test_a_token_over_the_boundary(chat: PreTrainedTokenizerFast):
    sample = Sample("own", "the rabb", "it and the qu", "", ("een",), "een", "contains_all", 4)
    encoded = encode(chat, sample, "plain")
    assert chat.decode(encoded.context) == "<s>the", "the straddling token belongs to the question"
    spaced = Sample("own", "Alice ", "said ", "", ("the",), "the", "contains_all", 4)
    encoded = encode(chat, spaced, "plain")  # the last space of the prompt would join the answer's
    assert chat.decode(np.concatenate([encoded.context, encoded.question])) == "<s>Alice said "
    assert chat.decode(encoded.target) == "the"
    alone = Sample("own", "Alice was", "", "", ("sad",), "sad", "contains_all", 4)
    assert len(encode(chat, alone, "plain").question) == 1, "there is always a token to decode from"


def test_chat_needs_a_template(plain: PreTrainedTokenizerFast):
    sample = load_task("passkey").make(plain, 300, "train", SEED)
    with pytest.raises(ValueError, match="use 'plain'"):
        encode(plain, sample, "chat")


def test_collate_pads_on_the_right(chat: PreTrainedTokenizerFast):
    rows = [encode(chat, load_task("niah-single").make(chat, 400 + 50 * i, "train", SEED), "plain") for i in range(3)]
    batch = collate(rows)
    for i, row in enumerate(rows):
        assert batch.context[i, : batch.context_length[i]].tolist() == row.context.tolist()
        assert batch.question[i, : batch.question_length[i]].tolist() == row.question.tolist()
        assert batch.target[i, : batch.target_length[i]].tolist() == row.target.tolist()
        assert not batch.context[i, batch.context_length[i] :].any()
    with pytest.raises(ValueError, match="no samples"):
        collate([])


def test_metrics():
    both = ("Red Fox", "12")
    assert METRICS["contains_all"]("a red fox", both) == 0.5
    assert METRICS["contains_any"]("number 12.", both) == 1.0 and METRICS["contains_any"]("none", both) == 0.0
    assert METRICS["exact_match"]("The red, fox!", both) == 1.0 and METRICS["exact_match"]("red foxes", both) == 0.0
    assert METRICS["token_f1"]("the quick red fox", both) == pytest.approx(0.8)  # 2 of 3 words, 2 of 2 found
    assert METRICS["token_f1"]("", both) == 0.0 and METRICS["token_f1"]("a", ("the",)) == 1.0


def write(path: Path, rows: list[object]) -> str:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)


def test_own_file(tmp_path: Path, chat: PreTrainedTokenizerFast):
    rows: list[object] = [{"prompt": f"Say {i}.", "answers": [str(i)]} for i in range(17)]
    rows += [
        {"context": f"Text {i}", "question": "Q?", "prefix": "A:", "answers": "x", "metric": "token_f1"} for i in "abc"
    ]
    task = load_task(write(tmp_path / "mine.jsonl", rows))
    assert task.name == "mine"
    found = {split: {task.make(chat, 200, split, i).context for i in range(40)} for split in SPLITS}
    assert [len(found[split]) for split in SPLITS] == [16, 2, 2] and len(set.union(*found.values())) == 20
    with pytest.raises(ValueError, match=r"mine.jsonl: a prompt needs \d+ tokens"):
        task.make(chat, 33, "train", 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ([1], "line 2: got list"),
        ({"prompt": "a", "answers": "b", "metrics": "x"}, "line 2: unknown key 'metrics'"),
        ({"context": "a", "answers": "b"}, "line 2: expected either"),
        ({"prompt": "a", "question": "q", "answers": "b"}, "line 2: expected either"),
        ({"prompt": "a"}, "line 2: key 'answers'"),
        ({"prompt": "a", "answers": []}, "line 2: key 'answers'"),
        ({"prompt": 3, "answers": "b"}, "line 2: key 'prompt'"),
        ({"prompt": "a", "answers": "b", "metric": "bleu"}, "line 2: key 'metric'"),
        ({"prompt": "a", "answers": "b", "max_new_tokens": True}, "line 2: key 'max_new_tokens'"),
    ],
)
def test_own_file_errors(tmp_path: Path, row: object, message: str):
    good = {"prompt": "p", "answers": "b"}
    with pytest.raises(ValueError, match=message):
        load_task(write(tmp_path / "bad.jsonl", [good, row]))


def test_unknown_names(tmp_path: Path):
    with pytest.raises(ValueError, match=r"'niah'.*niah-single"):
        load_task("niah")
    with pytest.raises(FileNotFoundError, match="not found"):
        load_task(str(tmp_path / "absent.jsonl"))
    with pytest.raises(ValueError, match="at least 3"):
        load_task(write(tmp_path / "short.jsonl", [{"prompt": "p", "answers": "b"}] * 5))
