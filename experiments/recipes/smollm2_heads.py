"""SmolLM2-135M, a linear score for every head over what keys and values are: no attention is looked at.

Claim: at a quarter of the cache, evicting while it reads, RULER is answered almost as with the full cache and far above
every hand-written policy. Command: `namm evolve smollm2-heads`. Hardware: two CPU cores.

The fit to what answers attend to does most of it (see docs/findings.md); the steps of the search are small, since it
changes 810 numbers by the scores of 16 candidates. Prompts are read once and stay: reading new ones would take longer
than to score a generation.

`smollm2-heads-threshold` is the same for use without a budget: what scores above zero stays (the original's rule: heads
of a layer keep equally many), and the fit's biases let a quarter of the training prompts' tokens do so.
"""

from dataclasses import replace

from evolve.fitness import FitnessConfig
from evolve.strategy import SearchConfig
from experiments.objective import UseConfig
from experiments.recipes.smollm2_ruler import TASKS
from experiments.run_config import PromptConfig, RunConfig, StageConfig
from namm.config import MemoryConfig, ScorerConfig
from namm.selection import SelectionConfig

CONFIG = RunConfig(
    name="smollm2-heads",
    host="smollm2-135m",
    stages=(StageConfig(TASKS, 1024, 40),),
    memory=MemoryConfig(
        features=("key-cosine", "value-cosine", "norms", "near"),
        relative="read",
        scorer=ScorerConfig(kind="linear", sets=(30, 3)),
        selection=SelectionConfig(threshold=None),
        interval=128,
    ),
    fit=64,
    use=UseConfig(mode="recorded", budget=(0.25, 0.125), chunk=128),
    search=SearchConfig(algorithm="sep-cma-es", population=16, sigma=0.02),
    fitness=FitnessConfig(grade_weight=1.0),
    prompts=PromptConfig(draw=16, pool=64, fresh=0, validation=32, held_out=24, streaming=0, batch=8),
    validate_every=5,
)
THRESHOLD = replace(
    CONFIG,
    name="smollm2-heads-threshold",
    memory=replace(CONFIG.memory, selection=SelectionConfig()),
    use=replace(CONFIG.use, budget=None),
)
