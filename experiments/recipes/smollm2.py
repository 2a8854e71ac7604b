"""SmolLM2-135M with recorded scoring: the default.

Claim: at an eighth of the cache the evolved memory answers needles and pass keys almost as the full cache does, and far
above every hand-written policy. Command: `namm evolve`. Hardware: two CPU cores, 8 GB. Time: about 15 minutes. Seen on
2026-11-21 (seed 0, 108 held-out prompts): evolved 0.880, full cache 0.991, best hand-written policy 0.222.

What made the difference, on the same records at an eighth of 512 tokens (24 prompts with one needle, exact answers):
key distinctiveness alone 0.08; its mean over near tokens 0.50; with value norm and value distinctiveness 0.83 to 0.92.
A step size of 0.1 moved little in 15 generations (log-likelihood -1.90 to -1.69 a token), 0.3 does.
"""

from evolve.fitness import FitnessConfig
from evolve.strategy import SearchConfig
from experiments.objective import UseConfig
from experiments.run_config import PromptConfig, RunConfig, StageConfig
from namm.config import MemoryConfig, ScorerConfig
from namm.selection import SelectionConfig

CONFIG = RunConfig(
    name="smollm2",
    host="smollm2-135m",
    stages=(StageConfig(("niah-single", "passkey"), 384, 12),),
    memory=MemoryConfig(
        features=("recency", "spectrum", "key-cosine", "value-cosine", "norms", "near"),
        scorer=ScorerConfig(kind="linear"),
        selection=SelectionConfig(threshold=None),
        interval=64,
    ),
    warm_start={"key-cosine": -1.0},
    use=UseConfig(mode="recorded", budget=0.125, chunk=128),
    search=SearchConfig(algorithm="sep-cma-es", population=16, sigma=0.3),
    fitness=FitnessConfig(grade_weight=1.0),
    prompts=PromptConfig(draw=12, pool=48, fresh=4, validation=24, held_out=108, streaming=24, batch=12),
    validate_every=3,
)
