"""SmolLM2-135M with recorded scoring: the default."""

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
