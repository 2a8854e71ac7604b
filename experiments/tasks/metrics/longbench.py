"""LongBench's metrics (arXiv 2308.14508, table 1), defects included: its numbers come from them; LongBench v2's."""

import re
import string
import warnings
from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import cache
from types import ModuleType

from experiments.tasks.metrics.texts import normalise, overlap, package

# Punctuation that LongBench takes out of Chinese text: ASCII, and these ranges of code points.
WIDE = (
    (0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027), (0x3001, 0x3003), (0x300B, 0x3011),
    (0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0xFE4F, 0xFE4F), (0xFF01, 0xFF0D), (0xFF0F, 0xFF0F),
    (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64),
)  # fmt: skip
WIDE_PUNCTUATION = frozenset(string.punctuation).union(*({*map(chr, range(a, b + 1))} for a, b in WIDE))


def qa_f1(prediction: str, answers: tuple[str, ...]) -> float:
    """As `token_f1`, but two empty texts score 0."""
    return max(overlap(normalise(prediction).split(), normalise(answer).split()) for answer in answers)


def qa_f1_zh(prediction: str, answers: tuple[str, ...]) -> float:
    """`qa_f1` over jieba's words, lower-cased and without punctuation (articles stay)."""
    return max(overlap(bare(_jieba().lcut(prediction)), bare(_jieba().lcut(answer))) for answer in answers)


def rouge_l(prediction: str, answers: tuple[str, ...]) -> float:
    """F of ROUGE-L at summary level: sentences end at every full stop, words count once, case matters.

    0 where it is not defined, that is where a side has no words.
    """
    return max(_rouge_l(prediction, answer) for answer in answers)


def rouge_l_zh(prediction: str, answers: tuple[str, ...]) -> float:
    """`rouge_l` of jieba's words, punctuation included."""
    spaced = " ".join(_jieba().lcut(prediction))
    return max(_rouge_l(spaced, " ".join(_jieba().lcut(answer))) for answer in answers)


def classification(prediction: str, answers: tuple[str, ...], classes: tuple[str, ...]) -> float:
    """1 over the number of classes named in the prediction, 0 if the right one is not among them (case matters).

    Named classes that are a part of the right one do not count. As in the original, which removes them from the list
    that it walks through, the class after a removed one is never looked at.
    """

    def one(answer: str) -> float:
        named, place = [name for name in classes if name in prediction], 0
        while place < len(named):
            if named[place] in answer and named[place] != answer:
                del named[place]
            place += 1
        return 1 / len(named) if answer in named else 0.0

    return max(map(one, answers))


def count(prediction: str, answers: tuple[str, ...]) -> float:
    """Share of the numbers in the prediction that equal the answer, 0 without any."""
    return max(_share(prediction, answer) for answer in answers)


def retrieval(prediction: str, answers: tuple[str, ...]) -> float:
    """`count` of the number in an answer of the form `Paragraph 12`."""
    return max(_share(prediction, _number(r"Paragraph (\d+)", answer)) for answer in answers)


def retrieval_zh(prediction: str, answers: tuple[str, ...]) -> float:
    """`count` of the number in an answer of the form `段落12`."""
    return max(_share(prediction, _number(r"段落(\d+)", answer)) for answer in answers)


def code_similarity(prediction: str, answers: tuple[str, ...]) -> float:
    """Likeness, in whole percent, of the first line that has no backtick, `#` or `//` to the answer.

    Ratcliff and Obershelp's ratio (difflib): what `fuzzywuzzy.fuzz.ratio`, the original's, is without its optional
    Levenshtein module, which the original does not ask for.
    """
    lines = prediction.lstrip("\n").split("\n")
    code = next((line for line in lines if not re.search("`|#|//", line)), "")
    return max(round(100 * SequenceMatcher(None, code, answer).ratio()) for answer in answers) / 100


def _share(prediction: str, number: str) -> float:
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(number) / len(numbers) if numbers else 0.0


def _number(pattern: str, answer: str) -> str:
    found = re.search(pattern, answer)
    if not found:
        raise ValueError(f"answer {answer!r}: expected a number in the form {pattern}")
    return found[1]


def _rouge_l(prediction: str, answer: str) -> float:
    try:
        return float(package("rouge").Rouge(["rouge-l"]).get_scores(prediction, answer)[0]["rouge-l"]["f"])
    except (ValueError, ZeroDivisionError, RecursionError):  # no sentence, no word, a sentence beyond the stack
        return 0.0


def stated_letter(prediction: str, answers: tuple[str, ...]) -> float:
    """1 if the letter in the first "The correct answer is (A)", else in the first without brackets, is the answer.

    Asterisks are not read (LongBench v2, arXiv 2412.15204).
    """
    text = prediction.replace("*", "")
    stated = "The correct answer is "
    found = re.search(rf"{stated}\(([A-D])\)", text) or re.search(f"{stated}([A-D])", text)
    return float(found is not None and found[1] in answers)


def bare(words: Iterable[str]) -> list[str]:
    """Words in lower case without ASCII and wide punctuation and white space; empty ones are left out."""
    kept = ("".join(char for char in word.lower() if char not in WIDE_PUNCTUATION) for word in words)
    return [word for word in ("".join(word.split()) for word in kept) if word]


@cache
def _jieba() -> ModuleType:
    with warnings.catch_warnings():  # its source has escapes that newer Pythons warn of
        warnings.simplefilter("ignore")
        jieba = package("jieba")
        jieba.setLogLevel("WARNING")
        jieba.initialize()
    return jieba
