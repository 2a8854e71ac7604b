"""SmolLM2-135M and the pocket host at once, what keys and values are alone: a memory that moves to other hosts.

Claim: nine numbers, evolved on two text models, serve both, and Decision Transformers and a LLaVA without retraining.
Command: `namm evolve contents`. Hardware: two CPU cores. Time: about 25 minutes, 11 of them search. Seen on
2026-11-23 (seed 0, held-out prompts, 25% / 12.5% kept): SmolLM2 0.958 / 0.639 and pocket 0.972 / 0.806, full cache
1.000 on both, best hand-written policies 0.500 / 0.208 and 0.722 / 0.417.

Attention is left out: what a host's attention did with a token says nothing of what another's will (see
docs/findings.md). The pocket host alone gives memories that fail in a LLaVA.
"""

from evolve.fitness import FitnessConfig
from evolve.strategy import SearchConfig
from experiments.objective import UseConfig
from experiments.run_config import BesideConfig, PromptConfig, RunConfig, StageConfig
from namm.config import MemoryConfig, ScorerConfig
from namm.selection import SelectionConfig

POCKET = BesideConfig("pocket", ("pocket-recall",), 256)

CONFIG = RunConfig(
    name="contents",
    host="smollm2-135m",
    stages=(StageConfig(("niah-single", "passkey"), 384, 30, (POCKET,)),),
    memory=MemoryConfig(
        features=("key-cosine", "value-cosine", "norms", "near"),
        relative="read",
        scorer=ScorerConfig(kind="linear"),
        selection=SelectionConfig(threshold=None),
        interval=64,
    ),
    warm_start={"key-cosine": -1.0},
    use=UseConfig(mode="recorded", budget=(0.25, 0.125), chunk=128),
    search=SearchConfig(algorithm="cma-es", population=16, sigma=0.3),
    fitness=FitnessConfig(grade_weight=1.0),
    prompts=PromptConfig(draw=12, pool=48, fresh=4, validation=24, held_out=72, streaming=24, batch=12),
    validate_every=3,
)
