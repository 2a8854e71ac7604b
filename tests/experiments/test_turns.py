"""StreamingLLM's and SirLLM's tasks: distances, options, win rates, users' files."""

import re
import secrets

import pytest
from transformers import PreTrainedTokenizerFast

from experiments.tasks import load_task
from experiments.tasks.encoding import prompt_length
from experiments.tasks.sample import Sample, held_in
from experiments.tasks.stream_eval import StreamEval, values
from tests.experiments.test_tasks import SPLITS, byte_tokenizer

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
