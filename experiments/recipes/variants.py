"""Ways to search that `namm searches` compares: each changes one thing of a recipe and costs as many evaluations."""

from collections.abc import Callable
from dataclasses import replace
from math import gcd

from evolve.strategy import SearchConfig
from experiments.run_config import RunConfig
from namm.network import ScorerName

Change = Callable[[RunConfig], RunConfig]


def strategy(algorithm: str, **options: float) -> Change:
    """Another strategy from the same distribution."""
    return lambda config: replace(
        config, search=SearchConfig(algorithm, config.search.population, config.search.sigma, **options)  # type: ignore[arg-type]
    )


def features(*names: str) -> Change:
    """Other feature blocks; a warm start of blocks that are gone goes with them."""

    def change(config: RunConfig) -> RunConfig:
        warm = {name: weight for name, weight in config.warm_start.items() if name in names}
        return replace(config, memory=replace(config.memory, features=names), warm_start=warm)

    return change


def scorer(kind: ScorerName) -> Change:
    def change(config: RunConfig) -> RunConfig:
        return replace(config, memory=replace(config.memory, scorer=replace(config.memory.scorer, kind=kind)))

    return change


def sets(axes: int) -> Change:
    """Parameters for every layer (1 axis) or for all layers and heads alike (0), where the recipe has more."""

    def change(config: RunConfig) -> RunConfig:
        alike = replace(config.memory.scorer, sets=config.memory.scorer.sets[:axes])
        return replace(config, memory=replace(config.memory, scorer=alike))

    return change


def warm(**weights: float) -> Change:
    """Another start: the weights of feature blocks in the first score, which is not fitted then."""
    named = {name.replace("_", "-"): weight for name, weight in weights.items()}
    return lambda config: replace(config, warm_start=named, fit=0)


def step(factor: float) -> Change:
    """A wider or narrower first distribution."""
    return lambda config: replace(config, search=replace(config.search, sigma=config.search.sigma * factor))


def exact(config: RunConfig) -> RunConfig:
    """Fitness by exact matches alone."""
    return replace(config, fitness=replace(config.fitness, grade_weight=0.0))


def spread(factor: int) -> Change:
    """`factor` times the generations, each with so many times fewer prompts."""

    def change(config: RunConfig) -> RunConfig:
        counts, stages = config.prompts, config.stages
        longer = tuple(replace(stage, generations=stage.generations * factor) for stage in stages)
        draw = counts.draw // factor
        fewer = replace(counts, draw=draw, fresh=max(counts.fresh // factor, 1), batch=gcd(counts.batch, draw))
        every = config.validate_every * factor
        return replace(config, stages=longer, prompts=fewer, validate_every=every)

    return change


def curriculum(config: RunConfig) -> RunConfig:
    """Half of the generations at half of the length first."""
    last = config.stages[-1]
    half = last.generations // 2
    short = replace(last, length=last.length // 2, generations=half)
    return replace(config, stages=(*config.stages[:-1], short, replace(last, generations=last.generations - half)))


ATTENTION = ("recency", "spectrum")  # the original's
VARIANTS: dict[str, Change] = {
    "recipe": lambda config: config,
    "cma-es": strategy("cma-es"),
    "iso-cma-es": strategy("iso-cma-es"),
    "lm-ma-es": strategy("lm-ma-es"),
    "snes": strategy("snes"),
    "open-es": strategy("open-es", learning_rate=0.05),
    "pgpe": strategy("pgpe", learning_rate=0.05),
    "sigma-half": step(0.5),
    "sigma-triple": step(3.0),
    "exact-fitness": exact,
    "warm-start": warm(key_cosine=-1.0),
    "cold-start": warm(),
    "original-features": features(*ATTENTION),
    "with-key-cosine": features(*ATTENTION, "key-cosine"),
    "with-value-cosine": features(*ATTENTION, "value-cosine"),
    "with-norms": features(*ATTENTION, "norms"),
    "with-near": features(*ATTENTION, "near"),
    "with-newness": features(*ATTENTION, "newness"),
    "with-levels": features(*ATTENTION, "levels"),
    "with-latest": features(*ATTENTION, "latest"),
    "with-surprisal": features(*ATTENTION, "surprisal"),
    "latest-for-spectrum": features("recency", "latest", "key-cosine", "value-cosine", "norms", "near"),
    "without-spectrum": features("recency", "key-cosine", "value-cosine", "norms", "near"),
    "contents": features("key-cosine", "value-cosine", "norms", "near"),
    "one-set": sets(0),
    "set-a-layer": sets(1),
    "linear": scorer("linear"),
    "mlp": scorer("mlp"),
    "bam": scorer("bam"),
    "fewer-prompts": spread(2),
    "curriculum": curriculum,
}
