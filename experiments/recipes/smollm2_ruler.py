"""SmolLM2-135M, `smollm2-heads` taken further while it evicts: one change of 13 numbers that all of its heads share.

Claim: a search in few directions, scored as in use, moves what ten generations over 810 numbers did not. It wins
nothing so far: on 78 prompts of 2,048 tokens 0.321 at a quarter and 0.297 at an eighth, its start 0.363 and 0.305, the
full cache 0.350.
Command: `namm device`, which checks and times the accelerator first and searches in pieces, or `namm evolve
smollm2-ruler`. What ships: `namm device --parts evolve --minutes 5.5` on an H200 that eight other programs shared, 21
generations, seed 0, 2026-11-27.

Ten generations over the 810 numbers of the fitted score a head move nothing (docs/findings.md); a change that every
head shares, over its features and how new a token is, has few directions, and every generation scores it at 2,048
tokens, as in use, for three budgets. Five tasks of RULER are left for held-out tables. 16 candidates x 24 prompts of
2,048 tokens a generation: 0.8 million tokens, some 240 TFLOP.
"""

from evolve.fitness import FitnessConfig
from evolve.strategy import SearchConfig
from experiments.objective import UseConfig
from experiments.run_config import PromptConfig, RunConfig, StageConfig
from namm.config import MemoryConfig, ScorerConfig
from namm.selection import SelectionConfig

NEEDLES = ("niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multivalue", "niah_multiquery")
TASKS = tuple(f"ruler/{name}" for name in (*NEEDLES, "vt", "cwe", "fwe"))

CONFIG = RunConfig(
    name="smollm2-ruler",
    host="smollm2-135m",
    stages=(StageConfig(TASKS, 2048, 100),),
    memory=MemoryConfig(
        features=("key-cosine", "value-cosine", "norms", "near", "newness"),
        relative="read",
        scorer=ScorerConfig(kind="linear", sets=(30, 3)),
        selection=SelectionConfig(threshold=None),
        interval=128,
    ),
    start="smollm2-heads",
    use=UseConfig(mode="streaming", budget=(0.5, 0.25, 0.125), chunk=128),
    directions="shared",
    search=SearchConfig(algorithm="cma-es", population=16, sigma=0.1),
    fitness=FitnessConfig(grade_weight=1.0),
    prompts=PromptConfig(draw=24, pool=120, fresh=0, validation=48, held_out=104, streaming=0, batch=24),
    candidates=8,
    validate_every=5,
)
