"""SmolLM2-135M, an MLP for every head fitted to long prompts of needles and code, then moved while it evicts.

What `smollm2-mixed` is (see there), fitted at 2,048 tokens in place of 1,024 and to twice as many prompts; the search
moves the linear part of all heads' scores alike, evicting while it reads, for three budgets. Command: `namm device
--recipe smollm2-general` or `namm evolve smollm2-general`.

Level with `smollm2-mixed` as far as it was run (15 generations in 4.5 minutes of a shared H200, seed 0, 2026-11-27):
RULER 0.299 at a quarter of 2,048 tokens, full cache 0.296; code 0.505, full cache 0.515. It does not ship.
"""

from dataclasses import replace

from experiments.recipes import smollm2_mixed, smollm2_ruler
from experiments.run_config import PromptConfig, StageConfig

RULER = smollm2_ruler.CONFIG

CONFIG = replace(
    RULER,
    name="smollm2-general",
    stages=(StageConfig(smollm2_mixed.TASKS, 2048, 100),),
    memory=smollm2_mixed.CONFIG.memory,
    start=None,
    fit=160,
    prompts=PromptConfig(draw=20, pool=160, fresh=0, validation=40, held_out=100, streaming=0, batch=20),
)
