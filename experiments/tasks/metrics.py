"""Scores of a prediction against the accepted answers, in [0, 1]; where several are accepted, the best one counts.

The metrics from `qa_f1` on, `choice` aside, are LongBench's (arXiv 2308.14508, table 1), defects included: its numbers
come from them. `rouge`, `jieba` belong to the extra `bench` and are imported at first use.
"""

import importlib
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from functools import cache
from types import MappingProxyType, ModuleType

from experiments.tasks.sample import Sample

# Punctuation that LongBench takes out of Chinese text: ASCII, and these ranges of code points.
WIDE = (
    (0x2013, 0x2014), (0x2018, 0x2019), (0x201B, 0x201F), (0x2026, 0x2027), (0x3001, 0x3003), (0x300B, 0x3011),
    (0x3014, 0x301F), (0x3030, 0x3030), (0x303E, 0x303F), (0xFE4F, 0xFE4F), (0xFF01, 0xFF0D), (0xFF0F, 0xFF0F),
    (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF64),
)  # fmt: skip
WIDE_PUNCTUATION = frozenset(string.punctuation).union(*({*map(chr, range(a, b + 1))} for a, b in WIDE))


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (SQuAD, arXiv 1606.05250)."""
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def contains_all(prediction: str, answers: tuple[str, ...]) -> float:
    """Share of the answers that stand in the prediction, whatever the case (RULER's `string_match_all`)."""
    return sum(answer.lower() in prediction.lower() for answer in answers) / len(answers)


def contains_any(prediction: str, answers: tuple[str, ...]) -> float:
    """1 if any answer stands in the prediction, whatever the case (RULER's `string_match_part`)."""
    return float(any(answer.lower() in prediction.lower() for answer in answers))


def exact_match(prediction: str, answers: tuple[str, ...]) -> float:
    """1 if the normalised prediction equals any normalised answer."""
    return float(any(normalise(prediction) == normalise(answer) for answer in answers))


def token_f1(prediction: str, answers: tuple[str, ...]) -> float:
    """Best harmonic mean of word precision and recall over the answers; two empty texts agree."""
    words = normalise(prediction).split()
    return max(_overlap(words, normalise(a).split()) if words or normalise(a) else 1.0 for a in answers)


def qa_f1(prediction: str, answers: tuple[str, ...]) -> float:
    """As `token_f1`, but two empty texts score 0."""
    return max(_overlap(normalise(prediction).split(), normalise(answer).split()) for answer in answers)


def qa_f1_zh(prediction: str, answers: tuple[str, ...]) -> float:
    """`qa_f1` over jieba's words, lower-cased and without punctuation (articles stay)."""
    return max(_overlap(_chinese_words(prediction), _chinese_words(answer)) for answer in answers)


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


def choice(prediction: str, answers: tuple[str, ...], classes: tuple[str, ...]) -> float:
    """1 if the first option letter of the prediction, standing alone and in capitals, is the right one."""
    found = re.search(rf"\b({'|'.join(map(re.escape, classes))})\b", prediction)
    return float(found is not None and found[1] in answers)


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


def score(prediction: str, sample: Sample) -> float:
    """The prediction's score by the sample's own metric, first-line rule and classes."""
    text = prediction.lstrip("\n").split("\n")[0] if sample.first_line else prediction
    if sample.metric in OF_CLASSES:
        return OF_CLASSES[sample.metric](text, sample.answers, sample.classes)
    return METRICS[sample.metric](text, sample.answers)


def _overlap(predicted: list[str], expected: list[str]) -> float:
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected)) if common else 0.0


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
        return float(_package("rouge").Rouge(["rouge-l"]).get_scores(prediction, answer)[0]["rouge-l"]["f"])
    except (ValueError, ZeroDivisionError, RecursionError):  # no sentence, no word, a sentence beyond the stack
        return 0.0


def _chinese_words(text: str) -> list[str]:
    kept = ("".join(char for char in word.lower() if char not in WIDE_PUNCTUATION) for word in _jieba().lcut(text))
    return [word for word in ("".join(word.split()) for word in kept) if word]


@cache
def _jieba() -> ModuleType:
    with warnings.catch_warnings():  # its source has escapes that newer Pythons warn of
        warnings.simplefilter("ignore")
        jieba = _package("jieba")
        jieba.setLogLevel("WARNING")
        jieba.initialize()
    return jieba


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"this metric needs the package {name}: pip install 'namm[bench]'") from error


OF_CLASSES: Mapping[str, Callable[[str, tuple[str, ...], tuple[str, ...]], float]] = MappingProxyType(
    {"classification": classification, "choice": choice}  # these need a sample's classes
)
METRICS: Mapping[str, Callable[[str, tuple[str, ...]], float]] = MappingProxyType(
    {
        metric.__name__: metric
        for metric in (
            contains_all, contains_any, exact_match, token_f1, qa_f1, qa_f1_zh, rouge_l, rouge_l_zh, count, retrieval,
            retrieval_zh, code_similarity,
        )
    }
)  # fmt: skip
