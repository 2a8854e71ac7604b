"""From scores of samples to one fitness per candidate; higher is better, never NaN."""

import math
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Array, Float

Samples = Float[Array | np.ndarray, "pop task sample"]


@dataclass(frozen=True)
class FitnessConfig:
    """How scores are normalised and what is added to them.

    fitness = mean over tasks of (mean score / mean reference score) + grade_weight * grade - kept_weight * kept
    """

    reference_floor: float = 0.05  # in units of the score; a task whose reference mean is below it is not normalised
    failed_score: float = 0.0  # what a failed sample counts; the worst value of the task metrics
    grade_weight: float = 0.0  # per nat: weight of the mean answer log-likelihood per token
    grade_floor: float = -20.0  # nats per token; lower and failed log-likelihoods count this
    kept_weight: float = 0.0  # fitness paid for keeping everything

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value):
                raise ValueError(f"{field.name}: got {value}, expected a finite number")
        if self.reference_floor <= 0:
            raise ValueError(f"reference_floor: got {self.reference_floor}, expected a positive number")
        for name in ("grade_weight", "kept_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected zero or a positive number")


def fitness(
    scores: Samples,
    reference: Float[Array | np.ndarray, "task sample"],
    grade: Samples | None = None,
    kept: Float[Array | np.ndarray, " pop"] | None = None,
    config: FitnessConfig = FitnessConfig(),
) -> Float[np.ndarray, " pop"]:
    """Fitness per candidate, float64.

    `scores` are task scores, `reference` the host's own scores on the same samples with its full cache, `grade` the
    log-likelihood of the right answer in nats per token, `kept` the share of the cache kept.

    Scores are normalised per task as a ratio of means (arXiv 2410.13166), not a mean of ratios, so that samples on
    which the reference scores 0 count. A task whose mean reference score is below `reference_floor` is used as it is:
    dividing by next to nothing would let it drown the others.

    A failed sample (NaN or infinite) of a candidate counts as the worst score for that candidate alone. A sample that
    failed in the reference is left out for everyone. A task without samples is left out; without any task, all are 0.
    """
    reference = np.asarray(reference, np.float64)
    present = np.isfinite(reference)
    used = present.any(axis=1)
    if not used.any():
        return np.zeros(len(scores))
    base = _sample_mean(np.where(present, reference, 0.0), present)
    failed_to = config.failed_score
    ratio = _sample_mean(_replace_failed(scores, failed_to), present)
    ratio = ratio / np.where(base < config.reference_floor, 1.0, base)
    total = ratio[:, used].mean(axis=1)
    if grade is not None and config.grade_weight:
        floored = np.maximum(_replace_failed(grade, config.grade_floor), config.grade_floor)
        total += config.grade_weight * _sample_mean(floored, present)[:, used].mean(axis=1)
    if kept is not None and config.kept_weight:
        total -= config.kept_weight * _replace_failed(kept, 1.0)
    return total


def _replace_failed(values: Array | np.ndarray, worst: float) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), values, worst)


def _sample_mean(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean over the last axis where `present` [task, sample]; 0 where nothing is."""
    return (values * present).sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)
