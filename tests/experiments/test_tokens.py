"""Long texts in parts have the tokens of the whole, whatever is cut; parts that disagree are given up."""

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from experiments.tasks import tokens
from experiments.tasks.tokens import Tokens, tokenise
from experiments.texts import read_parts
from tests.experiments.test_tasks import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(merges=2000)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "PART", int(np.random.default_rng().integers(2000, 3000)))
    monkeypatch.setattr(tokens, "OVERLAP", 600)


def texts() -> list[str]:
    book, rng = read_parts(None)[0], np.random.default_rng()
    begin = int(rng.integers(100_000))
    return [book[begin : begin + 30_000], "née 東京 🙂🙂\n\n  " * 1500, "".join(rng.choice(list("ab \n"), 20_000))]


def whole(tokenizer: PreTrainedTokenizerFast, text: str) -> Tokens:
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return Tokens(np.array(found["input_ids"]), np.array(found["offset_mapping"]))


def test_parts_have_the_tokens_of_the_whole(tokenizer: PreTrainedTokenizerFast, monkeypatch) -> None:
    longest: list[int] = []
    single = tokens._tokens
    monkeypatch.setattr(tokens, "_tokens", lambda t, text, begin: longest.append(len(text)) or single(t, text, begin))
    several = texts()
    for text in several:
        for found, expected in zip(tokenise(tokenizer, text), whole(tokenizer, text), strict=True):
            np.testing.assert_array_equal(found, expected)
    step = tokens.PART - tokens.OVERLAP
    assert len(longest) == sum(1 + -(-(len(text) - tokens.PART) // step) for text in several)
    assert max(longest) == tokens.PART, "never more than a part at once"


def test_parts_that_disagree_are_given_up(tokenizer: PreTrainedTokenizerFast, monkeypatch) -> None:
    """A stand-in that cuts a text into fours from where it begins, so that most parts meet out of step."""

    def fours(_: PreTrainedTokenizerFast, text: str, begin: int) -> Tokens:
        starts = np.arange(0, len(text), 4)
        return Tokens(starts.astype(np.int32), np.stack([starts, np.minimum(starts + 4, len(text))], axis=1) + begin)

    monkeypatch.setattr(tokens, "_tokens", fours)
    for length in (0, 1, 1999, 20_001):
        found = tokenise(tokenizer, "x" * length)
        np.testing.assert_array_equal(found.ids, np.arange(0, length, 4))
        assert found.spans.shape == (-(-length // 4), 2)
