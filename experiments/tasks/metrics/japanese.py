"""ChouBun's metrics (arXiv 2410.13166): LongBench's for Chinese, on the words of MeCab (fugashi, unidic-lite).

What counts as punctuation is LongBench's list; the original's own list was not at hand to compare.
"""

from functools import cache
from typing import Any

from experiments.tasks.metrics.longbench import bare, rouge_l
from experiments.tasks.metrics.texts import overlap, package


def qa_f1_ja(prediction: str, answers: tuple[str, ...]) -> float:
    """F1 of words, lower-cased and without punctuation."""
    return max(overlap(bare(_words(prediction)), bare(_words(answer))) for answer in answers)


def rouge_l_ja(prediction: str, answers: tuple[str, ...]) -> float:
    """`rouge_l` of the words, punctuation included."""
    return rouge_l(" ".join(_words(prediction)), tuple(" ".join(_words(answer)) for answer in answers))


def _words(text: str) -> list[str]:
    return _tagger().parse(text).split()


@cache
def _tagger() -> Any:
    package("unidic_lite")  # fugashi finds its dictionary by itself, but says less where it is missing
    return package("fugashi").Tagger("-Owakati")
