"""Words of texts and how many two texts share; the metrics of RULER and of users' own tasks."""

import importlib
import re
import string
from collections import Counter
from collections.abc import Sequence
from types import ModuleType


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
    return max(overlap(words, normalise(a).split()) if words or normalise(a) else 1.0 for a in answers)


def choice(prediction: str, answers: tuple[str, ...], classes: tuple[str, ...]) -> float:
    """1 if the first option letter of the prediction, standing alone and in capitals, is the right one."""
    found = re.search(rf"\b({'|'.join(map(re.escape, classes))})\b", prediction)
    return float(found is not None and found[1] in answers)


def overlap(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """Harmonic mean of the precision and recall of tokens, each as often as it stands; 0 where none is shared."""
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected)) if common else 0.0


def package(name: str) -> ModuleType:
    """A package of the extra `bench`; ModuleNotFoundError says how to get it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"this metric needs the package {name}: pip install 'namm[bench]'") from error
