"""Metrics against values computed by hand."""

import pytest

from experiments.tasks.metrics import METRICS, score
from experiments.tasks.metrics.longbench import classification
from experiments.tasks.sample import Sample

TABLE: list[tuple[str, str, tuple[str, ...], float]] = [
    ("qa_f1", "The cat sat.", ("a cat",), 2 / 3),  # {cat, sat} and {cat}
    ("qa_f1", "a b b", ("b b b",), 4 / 5),  # the article goes, two of three found
    ("qa_f1", "Red Fox", ("blue", "the red fox!"), 1.0),
    ("qa_f1", "", ("x",), 0.0),
    ("qa_f1", "the", ("a",), 0.0),  # both are empty; SQuAD's own rule would give 1
    ("qa_f1", "twenty-one", ("twenty one",), 0.0),  # punctuation goes without leaving a space
    ("token_f1", "the", ("a",), 1.0),
    ("token_f1", "", ("x",), 0.0),
    # jieba: 我 | 来到 | 北京 | 清华大学, and 北京 | 清华大学
    ("qa_f1_zh", "我来到北京清华大学", ("北京清华大学。",), 2 / 3),
    ("qa_f1_zh", "我 来到北京！", ("我来到北京",), 1.0),  # noqa: RUF001
    ("qa_f1_zh", "《Paris》", ("paris",), 2 / 3),  # 《 is a word: the original's list has only 》
    ("qa_f1_zh", "「Paris」", ("paris",), 1.0),
    ("qa_f1_zh", "。", ("北京",), 0.0),
    ("rouge_l", "the cat sat", ("the cat ran",), 2 / 3),
    ("rouge_l", "The cat", ("the cat",), 1 / 2),
    ("rouge_l", "a b c d", ("d a b",), 4 / 7),  # the common subsequence is a b: 2 of 4 and 2 of 3
    ("rouge_l", "one two. three four.", ("three four. one two.",), 1.0),  # sentence by sentence
    ("rouge_l", "one one one", ("one",), 1.0),  # a word counts once
    ("rouge_l", "", ("one",), 0.0),
    ("rouge_l", "...", ("one",), 0.0),
    ("rouge_l", "b", ("a", "b"), 1.0),
    ("rouge_l_zh", "我来到北京清华大学", ("我来到北京",), 6 / 7),  # 3 of 4 and 3 of 3
    ("rouge_l_zh", "", ("我来到北京",), 0.0),
    ("count", "5 of them, or 7", ("5",), 1 / 2),
    ("count", "15", ("5",), 0.0),
    ("count", "05", ("5",), 0.0),
    ("count", "five", ("5",), 0.0),
    ("retrieval", "Paragraph 12", ("Paragraph 12",), 1.0),
    ("retrieval", "Paragraph 1, not 12 or 13.", ("Paragraph 12",), 1 / 3),
    ("retrieval", "", ("Paragraph 12",), 0.0),
    ("retrieval_zh", "段落3", ("段落3",), 1.0),
    ("retrieval_zh", "段落3或段落4", ("段落3",), 1 / 2),
    ("code_similarity", "\n```\n# note\n// note\nreturn a\nreturn b", ("return a",), 1.0),
    ("code_similarity", "return bc", ("return a",), 0.82),  # 7 of 9 and 8 characters: 14 / 17
    ("code_similarity", "\n\n", ("return a",), 0.0),
    ("code_similarity", "# only", ("return a",), 0.0),
    # The longest block abc, then w: 8 of 18 characters. The longest common subsequence, abc123, would give 12 of 18.
    ("code_similarity", "uvabcw123", ("abc1u2v3w",), 0.44),
    ("stated_letter", "The **correct answer is (B)**", ("B",), 1.0),
    ("stated_letter", "The correct answer is B.", ("B",), 1.0),
    ("stated_letter", "The correct answer is C. No: The correct answer is (B)", ("B",), 1.0),  # brackets first
    ("stated_letter", "The correct answer is (C). No: The correct answer is (B)", ("B",), 0.0),
    ("stated_letter", "the correct answer is (B)", ("B",), 0.0),
    ("stated_letter", "B", ("B",), 0.0),
    ("first_integer", "It is 71432, not 5", ("71432",), 1.0),
    ("first_integer", "Key 5: 71432", ("71432",), 0.0),
    ("first_integer", "071432", ("71432",), 0.0),  # compared as texts
    ("first_integer", "none", ("71432",), 0.0),
    ("word_match", 'The value: "ab-12".', ("ab-12",), 1.0),
    ("word_match", "ab-123", ("ab-12",), 0.0),
    ("word_match", "AB-12", ("ab-12",), 0.0),
    ("name_match", "It's Ruth!", ("RUTH",), 1.0),
    ("name_match", "Ruthless", ("RUTH",), 0.0),
    ("name_match", "Old Ruth", ("OLD RUTH",), 0.0),  # a name of two words is never found
    ("char_f1_zh", "我来 到北京。", ("北京",), 4 / 7),  # 2 of 5 and 2 of 2 characters
    ("char_f1_zh", "《A b》", ("ab",), 4 / 5),  # 《 is no punctuation in the original's list
    ("char_f1_zh", "。", ("北京",), 0.0),
    ("option_letter", " B, I think", ("a mill", "B"), 1.0),
    ("option_letter", "A mill", ("A mill", "B"), 0.0),  # begins with A
    ("option_letter", "a mill", ("a mill", "B"), 1.0),
    ("option_letter", "a mill.", ("a mill", "B"), 0.0),
    ("option_letter", "The answer is: B", ("a mill", "B"), 1.0),
    ("option_letter", "The answer is a mill", ("a mill", "B"), 1.0),
    ("option_letter", "The answer is:", ("a mill", "B"), 0.0),
    ("option_letter", "The answer is: C or B", ("a mill", "B"), 0.0),
    ("option_letter", "It must be (x) or B", ("a mill", "B"), 1.0),
    ("option_letter", "It must be C, not B", ("a mill", "B"), 0.0),
    ("option_letter", "The letters BC, then B", ("a mill", "B"), 0.0),  # BC counts as a letter
    ("option_letter", "", ("a mill", "B"), 0.0),
    ("option_named", "B. open", ("open", "B"), 1.0),
    ("option_named", "B", ("open", "B"), 0.0),  # a bare letter does not count
    ("option_named", "The correct option is: B", ("open", "B"), 1.0),
    ("option_named", "The answer is: `open`", ("open", "B"), 1.0),
    ("option_named", "The answer is:open", ("open", "B"), 0.0),  # a character is skipped, whatever it is
    ("option_named", "answer: C, is: B", ("open", "B"), 1.0),  # "is:" is sought first
    ("option_named", "answer: C", ("open", "B"), 0.0),
    ("option_named", "answer:", ("open", "B"), 0.0),
    ("last_integer", "It returns: -8.", ("-8",), 1.0),
    ("last_integer", "-8 or 7", ("-8",), 0.0),
    ("last_integer", "8.0", ("0",), 1.0),  # a full stop parts words
    ("last_integer", "eight", ("8",), 0.0),
    ("last_integer", "", ("8",), 0.0),
    ("first_number", "5, then 6", ("5",), 1.0),
    ("first_number", "5.0", ("5",), 0.0),  # the original stops here
    ("first_number", "x 5.50", ("5.5",), 1.0),
    ("first_number", "5", ("5.0",), 1.0),
    ("first_number", "-5", ("5",), 1.0),
    ("first_number", "-5", ("-5",), 0.0),  # signs are not read
    ("first_number", "five", ("5",), 0.0),
    ("prefix_share", "[1, 4, 8]", ("1", "4", "8"), 1.0),
    ("prefix_share", "1 4 9 8", ("1", "4", "8"), 2 / 3),
    ("prefix_share", "1", ("1", "4", "8"), 1 / 3),
    ("prefix_share", "4 8", ("1", "4", "8"), 0.0),
    ("prefix_share", "", ("1", "4", "8"), 0.0),
    ("rouge_lsum", "The cat\nsat", ("the cat sat",), 1.0),  # two lines, united
    ("rouge_lsum", "sat the cat", ("the cat sat",), 2 / 3),
    ("rouge_lsum", "one one", ("one",), 2 / 3),
    ("rouge_lsum", "a b c", ("c\nb a",), 4 / 6),  # c, then the second line has but one of b and a
    ("rouge_lsum", "a", ("a\na",), 2 / 3),  # united over two lines, counted once
    ("rouge_lsum", "", ("one",), 0.0),
    ("rouge_lsum", "été", ("t",), 1.0),  # other letters part words
    ("rouge_lsum", "b", ("a", "b"), 1.0),
    # MeCab: 東京 | タワー | は | 、 | 1958 | 年 | に | 完成 | し | た | 。
    ("qa_f1_ja", "東京タワーは、1958年に完成した。", ("1958年",), 2 * 2 / (9 + 2)),
    ("qa_f1_ja", "東京タワー", ("タワー",), 2 / 3),
    ("qa_f1_ja", "「ABC社」", ("abc社。",), 1.0),
    ("qa_f1_ja", "東京\n1958年", ("1958年",), 4 / 5),
    ("qa_f1_ja", "東京", ("大阪", "東京"), 1.0),
    ("qa_f1_ja", "。", ("東京",), 0.0),
    ("qa_f1_ja", "", ("東京",), 0.0),
    # 会社 | は | 利益 | を | 増やし | た | 。: the seventh word counts, one differs
    ("rouge_l_ja", "会社は利益を増やした。", ("会社は売上を増やした。",), 6 / 7),
    ("rouge_l_ja", "利益", ("会社は利益を増やした。",), 2 / 8),
    ("rouge_l_ja", "", ("会社",), 0.0),
]


@pytest.mark.parametrize(("metric", "prediction", "answers", "expected"), TABLE)
def test_table(metric: str, prediction: str, answers: tuple[str, ...], expected: float):
    assert METRICS[metric](prediction, answers) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("prediction", "answer", "classes", "expected"),
    [
        ("Type: Town name", "Town name", ("Town", "Town name", "Person"), 1.0),  # a part of the answer is no rival
        ("Town", "Town name", ("Town", "Town name"), 0.0),
        ("Town name", "Town", ("Town", "Town name"), 1 / 2),
        ("Town or Person", "Town", ("Town", "Town name", "Person"), 1 / 2),
        ("person", "Person", ("Town", "Person"), 0.0),
        ("red green blue", "red green blue", ("red", "green", "red green blue"), 1 / 2),  # green is skipped
        ("red green blue", "red green blue", ("red", "red green blue", "green"), 1.0),
        ("", "Town", ("Town",), 0.0),
    ],
)
def test_classification(prediction: str, answer: str, classes: tuple[str, ...], expected: float):
    assert classification(prediction, (answer,), classes) == expected
    assert classification(prediction, ("none", answer), classes) == expected


def test_a_sample_brings_its_rules():
    labelled = Sample("own", "c", "q", "", ("Town",), "Town", "classification", 8, ("Town", "Person"), first_line=True)
    assert score("\n Town\nPerson", labelled) == 1.0 and score("Person\nTown", labelled) == 0.0
    plain = Sample("own", "c", "q", "", ("Town",), "Town", "contains_all", 8)
    assert score("Person\nTown", plain) == 1.0


def test_a_damaged_answer_is_an_error():
    with pytest.raises(ValueError, match="expected a number in the form Paragraph"):
        METRICS["retrieval"]("Paragraph 1", ("1",))
