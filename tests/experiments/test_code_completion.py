"""Code completion: real files, whole statements, nothing between context and line, one split a file."""

import ast
import itertools
import secrets
from dataclasses import replace

import pytest

from experiments.tasks import Split, load_task
from experiments.tasks.code_completion import LEAST_ANSWER, PACKAGES, sources, statements
from experiments.tasks.encoding import encode, prompt_length
from experiments.tasks.metrics import score
from tests.experiments.test_tasks import SPLITS, byte_tokenizer

SEED = secrets.randbelow(10**6)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("length", [300, 1200])
def test_a_line_of_a_file_of_the_split_and_what_stands_before_it(length: int, split: Split):
    tokenizer = byte_tokenizer(merges=500, chat=True)
    task = load_task("code-completion")
    texts = [one.path.read_text(encoding="utf-8") for one in sources(PACKAGES)[split]]
    for index in itertools.count(SEED):
        sample = task.make(tokenizer, length, split, index)
        assert task.make(tokenizer, length, split, index) == sample != task.make(tokenizer, length, split, index + 1)
        assert prompt_length(tokenizer, sample) + sample.max_new_tokens <= length
        (answer,) = sample.answers
        gap = sample.target.removesuffix(answer)
        code = f"{sample.context}{sample.question}{gap}{answer}\n"
        parts = [part for text in texts for part in text.split(f"\n{code}")[:-1]]
        assert parts, "the code stands in no file of the split"
        if len(parts) == 1:  # short code may stand in several places, behind other lines
            break
    before = parts[0].rsplit("\n", 1)[-1]
    longer = replace(sample, context=f"{before}\n{sample.context}")
    tokens = prompt_length(tokenizer, longer) + sample.max_new_tokens
    assert tokens > length, "one more line would have fitted"
    assert sample.question.strip() and set(gap) == {"\n"} and sample.context.endswith("\n")
    assert len(answer.strip()) >= LEAST_ANSWER and ast.parse(answer.strip().replace("return", "pass; ", 1))
    assert score(sample.target, sample) == 1 > score("", sample)
    assert tokenizer.decode(encode(tokenizer, sample, "chat").target) == sample.target


def test_statements_fill_a_line_and_have_enough_before():
    text = '''"""A text that is longer than the least."""
first_of_all = "enough letters"
"a text that stands alone, no answer"
short = 1
second = "a line"; third = "and another"
with_comment = "a statement"  # and why
colour = "#a0b1c2d3e4f5"
several = [
    "lines",
]
def function(): return "in the line of its head"
if first_of_all:
    nested_statement(several)
'''
    lines = text.split("\n")
    assert [lines[place].split()[0] for place in statements(lines, 0)] == ["first_of_all", "nested_statement(several)"]
    assert statements(lines, text.index("    nested")) == [] != statements(lines, text.index("    nested") - 1)


def test_splits_hold_different_files():
    paths = {split: {one.path for one in sources(PACKAGES)[split]} for split in SPLITS}
    assert all(len(found) > 300 for found in paths.values())
    assert len(set.union(*paths.values())) == sum(map(len, paths.values()))


@pytest.mark.parametrize("package", PACKAGES)
def test_one_package_alone(package: str):
    sample = load_task(f"code-completion/{package}").make(byte_tokenizer(merges=500), 1200, "test", SEED)
    texts = [one.path.read_text(encoding="utf-8") for one in sources((package,))["test"]]
    assert sample.task == f"code-completion/{package}" and any(f"\n{sample.context}" in f"\n{text}" for text in texts)
    assert {one.path for one in sources((package,))["test"]} < {one.path for one in sources(PACKAGES)["test"]}


def test_no_file_is_long_enough():
    with pytest.raises(ValueError, match="length 1000000 is too long, no file of jax, matplotlib"):
        load_task("code-completion").make(byte_tokenizer(merges=0), 10**6, "test", 0)
