"""SmolLM2-135M evicting while it reads, with the paper's scorer: for an accelerator.

Command: `namm evolve smollm2-streaming`. 32 candidates x 24 prompts of 1024 tokens a generation: 0.8 million tokens,
some 240 TFLOP in float32. Not run here: no accelerator was at hand.
"""

from evolve.fitness import FitnessConfig
from evolve.strategy import SearchConfig
from experiments.objective import UseConfig
from experiments.run_config import PromptConfig, RunConfig, StageConfig
from namm.config import MemoryConfig
from namm.selection import SelectionConfig

CONFIG = RunConfig(
    name="smollm2-streaming",
    host="smollm2-135m",
    stages=(
        StageConfig(("niah-single", "niah-multikey"), 512, 100),
        StageConfig(("niah-single", "niah-multikey", "niah-multivalue", "niah-multiquery"), 1024, 200),
    ),
    memory=MemoryConfig(
        features=("recency", "spectrum", "key-cosine", "value-cosine", "norms", "near"),
        selection=SelectionConfig(threshold=None),
        interval=128,
    ),
    warm_start={"key-cosine": -1.0},
    use=UseConfig(mode="streaming", budget=0.25, chunk=128),
    search=SearchConfig(algorithm="sep-cma-es", population=32, sigma=0.065),
    fitness=FitnessConfig(grade_weight=1.0),
    prompts=PromptConfig(draw=24, pool=48, fresh=24, validation=48, held_out=128, batch=8),
    candidates=16,
    validate_every=10,
)
