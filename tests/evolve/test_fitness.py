"""Fitness against a sample-by-sample loop; failures, small references, and that nothing returns NaN."""

import numpy as np
import pytest

from evolve.fitness import FitnessConfig, fitness

POP, TASK, SAMPLE = 5, 3, 7


def draw(seed=None):
    rng = np.random.default_rng(seed)
    return (
        rng.random((POP, TASK, SAMPLE)),
        rng.uniform(0.3, 1, (TASK, SAMPLE)),
        -rng.exponential(size=(POP, TASK, SAMPLE)),
    )


def loop_oracle(scores, reference, grade, kept, config):
    result = []
    for p in range(POP):
        ratios, grades = [], []
        for t in range(TASK):
            samples = [s for s in range(SAMPLE) if np.isfinite(reference[t, s])]
            if not samples:
                continue
            own = [scores[p, t, s] if np.isfinite(scores[p, t, s]) else config.failed_score for s in samples]
            base = sum(reference[t, s] for s in samples) / len(samples)
            ratios.append(sum(own) / len(own) / (base if base >= config.reference_floor else 1))
            nats = [grade[p, t, s] if np.isfinite(grade[p, t, s]) else config.grade_floor for s in samples]
            grades.append(sum(max(n, config.grade_floor) for n in nats) / len(nats))
        result.append(
            sum(ratios) / len(ratios) + config.grade_weight * sum(grades) / len(grades) - config.kept_weight * kept[p]
        )
    return np.array(result)


def test_equals_the_loop_with_failures_everywhere():
    scores, reference, grade = draw()
    scores[1, 0, 2], scores[3, 2, 2], grade[0, 1, 1], grade[2, 2, 3] = np.nan, np.inf, -np.inf, -400.0
    reference[0, 4], reference[1] = np.nan, 0.01
    kept = np.random.default_rng().random(POP)
    config = FitnessConfig(grade_weight=0.3, kept_weight=0.1)
    expected = loop_oracle(scores, reference, grade, kept, config)
    np.testing.assert_allclose(fitness(scores, reference, grade, kept, config), expected, rtol=1e-12)


def test_ratio_of_means_not_mean_of_ratios():
    scores, reference = np.ones((1, 1, 2)), np.array([[1.0, 0.0]])
    assert fitness(scores, reference) == pytest.approx([2.0])


def test_the_reference_itself_has_fitness_one():
    _, reference, _ = draw()
    np.testing.assert_allclose(fitness(np.repeat(reference[None], POP, 0), reference), 1.0)


def test_a_failed_sample_concerns_its_candidate_alone():
    scores, reference, grade = draw()
    config = FitnessConfig(grade_weight=1.0)
    before = fitness(scores, reference, grade, config=config)
    scores[2, 1, 3] = grade[2, 1, 3] = np.nan
    after = fitness(scores, reference, grade, config=config)
    assert after[2] < before[2]
    np.testing.assert_array_equal(np.delete(after, 2), np.delete(before, 2))


def test_a_failed_reference_sample_is_left_out_for_all():
    scores, reference, _ = draw()
    reference[:, 3] = np.nan
    shorter = fitness(np.delete(scores, 3, 2), np.delete(reference, 3, 1))
    np.testing.assert_allclose(fitness(scores, reference), shorter, rtol=1e-12)


def test_tiny_reference_does_not_drown_the_other_tasks():
    scores, reference, _ = draw()
    reference[0] = 1e-9
    assert fitness(scores, reference).max() < 10


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_never_nan(value):
    scores, reference, grade = draw()
    config = FitnessConfig(grade_weight=1.0, kept_weight=1.0)
    bad = np.full_like(scores, value)
    assert np.isfinite(fitness(bad, reference, bad, np.full(POP, value), config)).all()
    np.testing.assert_array_equal(fitness(scores, np.full_like(reference, value), grade), np.zeros(POP))


@pytest.mark.parametrize(
    "options", [{"reference_floor": 0.0}, {"kept_weight": -1.0}, {"grade_weight": float("nan")}, {"grade_weight": -0.1}]
)
def test_bad_settings_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        FitnessConfig(**options)
