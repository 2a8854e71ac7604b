"""SmolLM2-135M with the paper's own memory and search: attention's spectrum and age, BAM, a threshold and no budget.

What the paper's settings (arXiv 2410.13166; see `llama3_8b`) do on a host that one accelerator holds: zero start on
the threshold, an update every 512 tokens, full CMA-ES with 32 candidates and step size 0.065, exact matches normalised
by the full cache's and nothing paid for what is kept. What differs: eight tasks of RULER at 1024 tokens and three
prompts a task and generation in place of 64. Command: `namm device --recipe smollm2-original --parts evolve`.

Negative as far as it was run (2026-11-27, one generation of 290 s, two cores with other work beside it, candidates
evicting from records; see docs/findings.md): candidates that are steps of 0.065 from zero drop 45% of the tokens and
answer 0.129 of the prompts (the full cache 0.344, on the validation prompts), and exact matches of eight prompts tell
few of them apart (87.5% tie).
"""

from evolve.fitness import FitnessConfig
from evolve.strategy import SearchConfig
from experiments.objective import FULL, UseConfig
from experiments.recipes.smollm2_ruler import TASKS
from experiments.run_config import PromptConfig, RunConfig, StageConfig
from namm.config import MemoryConfig, ScorerConfig

LENGTH = 1024

CONFIG = RunConfig(
    name="smollm2-original",
    host="smollm2-135m",
    stages=(StageConfig(TASKS, LENGTH, 300),),
    memory=MemoryConfig(scorer=ScorerConfig(start=0.0)),
    use=UseConfig(mode="streaming", budget=None, capacity=LENGTH, chunk=128),
    search=SearchConfig(algorithm="cma-es", population=32, sigma=0.065),
    fitness=FitnessConfig(),
    prompts=PromptConfig(draw=24, pool=120, fresh=0, validation=48, held_out=104, streaming=0, batch=24),
    candidates=4,
    policies=(FULL,),
    validate_every=5,
)
