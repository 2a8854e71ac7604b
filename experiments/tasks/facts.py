"""Which answers stand in a context as facts, and where."""

import re
from collections.abc import Iterator

from experiments.tasks.sample import Sample

# Metrics whose answers are option letters, class labels or results: that they stand in a context means nothing.
LABELS = frozenset(
    "choice classification stated_letter option_letter option_named count last_integer prefix_share".split()
)


def facts(sample: Sample) -> tuple[str, ...]:
    """The answers whose occurrences in the context mean something, () for letters, labels and results."""
    return () if sample.metric in LABELS else sample.answers


def places(text: str, answer: str) -> Iterator[int]:
    """Where an answer begins, not inside a longer word or number (of Latin letters and digits)."""
    edges = (("(?<![A-Za-z0-9])", answer[:1]), ("(?![A-Za-z0-9])", answer[-1:]))
    before, after = (edge if char.isascii() and char.isalnum() else "" for edge, char in edges)
    return (found.start() for found in re.finditer(before + re.escape(answer) + after, text) if answer)
