"""The paper's three stages on Llama-3-8B (arXiv 2410.13166, sections 3.4 and 4.1), with its settings.

Claim: the published memory reaches 1.11 times the full cache's normalised LongBench score at about a quarter of the
cache. Command: `namm evolve llama3-8b-1`, then `-2` and `-3` with the same `--folder`, which go on from the whole
search state. Settings: 4172-parameter BAM, zero start, threshold 0 without a budget, update every 512 tokens, context
32768 by NTK RoPE (factor 4, alpha 2), full CMA-ES with 32 candidates and step size 0.065, 64 prompts a task and
generation, exact scores normalised by the full cache's. Differences: prompts are drawn from a training split, not from
the test set; the spectrum's statistics come from the first batch of prompts; a score is an exact match under
teacher forcing.

Needs: the gated weights `meta-llama/Meta-Llama-3-8B` and LongBench from the hub. In bfloat16 16 GB of weights and, per
candidate and prompt at once, 131 KB of cache and 50 KB of spectrum a token: 6 GB at 32768 tokens. One 80 GB card
holds eight at once (`--candidates 8 --prompts.batch 1`). One stage-1 generation is 2048 prompts of about 12,000
tokens, some 400 PFLOP: 15 to 30 minutes on one H100-class card. Not run here: no such card was at hand.
"""

from evolve.fitness import FitnessConfig
from evolve.strategy import SearchConfig
from experiments.objective import UseConfig
from experiments.run_config import PromptConfig, RunConfig, StageConfig
from hosts.spec import RopeSpec
from namm.config import MemoryConfig, ScorerConfig

LENGTH = 32768
TASKS = ("longbench/passage_retrieval_en", "longbench/dureader", "longbench/narrativeqa")
GENERATIONS = (300, 250, 120)  # about; the released configuration only caps them at 1000
STAGES = tuple(StageConfig(TASKS[: i + 1], LENGTH, GENERATIONS[i]) for i in range(3))


def _stage(last: int) -> RunConfig:
    return RunConfig(
        name=f"llama3-8b-{last}",
        host="meta-llama/Meta-Llama-3-8B",
        stages=STAGES[:last],
        memory=MemoryConfig(scorer=ScorerConfig(start=0.0)),
        use=UseConfig(mode="streaming", budget=None, capacity=LENGTH, chunk=128),
        search=SearchConfig(algorithm="cma-es", population=32, sigma=0.065),
        fitness=FitnessConfig(),
        prompts=PromptConfig(
            draw=64 * last, pool=64 * last, fresh=64 * last, validation=16 * last, held_out=40, streaming=0, batch=1
        ),
        candidates=8,
        validate_every=10,
        rope=RopeSpec("ntk", 500000.0, factor=4.0, alpha=2.0),
        dtype="bfloat16",
    )


CONFIGS = tuple(_stage(last) for last in (1, 2, 3))
