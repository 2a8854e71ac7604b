"""Scores of a prediction against the accepted answers, in [0, 1]; where several are accepted, the best one counts.

Packages of the extra `bench` are imported at first use.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from experiments.tasks.metrics import infinitebench, japanese, longbench, texts
from experiments.tasks.sample import Sample

OF_CLASSES: Mapping[str, Callable[[str, tuple[str, ...], tuple[str, ...]], float]] = MappingProxyType(
    {"classification": longbench.classification, "choice": texts.choice}  # these need a sample's classes
)
METRICS: Mapping[str, Callable[[str, tuple[str, ...]], float]] = MappingProxyType(
    {
        metric.__name__: metric
        for metric in (
            texts.contains_all, texts.contains_any, texts.exact_match, texts.token_f1, longbench.qa_f1,
            longbench.qa_f1_zh, longbench.rouge_l, longbench.rouge_l_zh, longbench.count, longbench.retrieval,
            longbench.retrieval_zh, longbench.code_similarity, longbench.stated_letter,
            infinitebench.first_integer, infinitebench.word_match, infinitebench.name_match, infinitebench.char_f1_zh,
            infinitebench.option_letter, infinitebench.option_named, infinitebench.last_integer,
            infinitebench.first_number, infinitebench.prefix_share, infinitebench.rouge_lsum, japanese.qa_f1_ja,
            japanese.rouge_l_ja,
        )
    }
)  # fmt: skip


def score(prediction: str, sample: Sample) -> float:
    """The prediction's score by the sample's own metric, first-line rule and classes."""
    text = prediction.lstrip("\n").split("\n")[0] if sample.first_line else prediction
    if sample.metric in OF_CLASSES:
        return OF_CLASSES[sample.metric](text, sample.answers, sample.classes)
    return METRICS[sample.metric](text, sample.answers)
