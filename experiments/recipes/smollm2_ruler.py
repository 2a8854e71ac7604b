"""SmolLM2-135M evicting while it reads eight tasks of RULER, one memory for three budgets: for an accelerator.

Command: `namm device`, which checks and times the accelerator first and searches in pieces, or `namm evolve
smollm2-ruler`. The other five tasks of RULER are left for held-out tables. 32 candidates x 24 prompts of 1024 tokens a
generation: 0.8 million tokens, some 240 TFLOP. Not run here: no accelerator was at hand.
"""

from evolve.fitness import FitnessConfig
from evolve.strategy import SearchConfig
from experiments.objective import UseConfig
from experiments.run_config import PromptConfig, RunConfig, StageConfig
from namm.config import MemoryConfig
from namm.selection import SelectionConfig

NEEDLES = ("niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multivalue", "niah_multiquery")
TASKS = tuple(f"ruler/{name}" for name in (*NEEDLES, "vt", "cwe", "fwe"))

CONFIG = RunConfig(
    name="smollm2-ruler",
    host="smollm2-135m",
    stages=(StageConfig(TASKS, 512, 100), StageConfig(TASKS, 1024, 200), StageConfig(TASKS, 2048, 100)),
    memory=MemoryConfig(
        features=("recency", "spectrum", "key-cosine", "value-cosine", "norms", "near"),
        selection=SelectionConfig(threshold=None),
        interval=128,
    ),
    warm_start={"key-cosine": -1.0},
    use=UseConfig(mode="streaming", budget=(0.5, 0.25, 0.125), chunk=128),
    search=SearchConfig(algorithm="sep-cma-es", population=32, sigma=0.065),
    fitness=FitnessConfig(grade_weight=1.0),
    prompts=PromptConfig(draw=24, pool=48, fresh=24, validation=48, held_out=104, streaming=0, batch=8),
    candidates=16,
    validate_every=10,
)
