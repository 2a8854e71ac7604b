"""Scores of a prediction against the accepted answers, in [0, 1]."""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType


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
    return max(_overlap(normalise(prediction).split(), normalise(answer).split()) for answer in answers)


def _overlap(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


METRICS: Mapping[str, Callable[[str, tuple[str, ...]], float]] = MappingProxyType(
    {"contains_all": contains_all, "contains_any": contains_any, "exact_match": exact_match, "token_f1": token_f1}
)
