"""The pocket host evicting while it reads: seconds a generation on two cores.

Claim: the evolved memory beats every hand-written policy at a quarter of the cache, streaming. Command:
`namm evolve pocket`. Hardware: two CPU cores. Time: under 4 minutes. Seen on 2026-11-21 (seed 0, 128 held-out prompts):
evolved 0.961, full cache 1.000, start 0.211, best hand-written policy (`expected-attention`) 0.781.
"""

from evolve.fitness import FitnessConfig
from evolve.strategy import SearchConfig
from experiments.objective import UseConfig
from experiments.run_config import PromptConfig, RunConfig, StageConfig
from namm.config import MemoryConfig
from namm.selection import SelectionConfig

CONFIG = RunConfig(
    name="pocket",
    host="pocket",
    stages=(StageConfig(("pocket-recall",), 256, 30),),
    memory=MemoryConfig(
        features=("recency", "spectrum", "key-cosine", "value-cosine", "norms", "near"),
        selection=SelectionConfig(threshold=None),
        interval=64,
    ),
    use=UseConfig(mode="streaming", budget=0.25, chunk=64),
    search=SearchConfig(algorithm="sep-cma-es", population=16, sigma=0.1),
    fitness=FitnessConfig(grade_weight=1.0),
    prompts=PromptConfig(draw=16, pool=64, fresh=16, validation=32, held_out=128, streaming=0, batch=16),
    validate_every=5,
)
