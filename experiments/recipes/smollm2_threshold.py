"""SmolLM2-135M without a budget: the memory itself says how much stays, 13 numbers that all heads share evolved.

Claim: RULER is answered as often as with the full cache, with a quarter of it kept and nobody saying how much. Command:
`namm evolve smollm2-threshold`. Hardware: two CPU cores; ten minutes before the search, then 66 s a generation.
What ships is the mean after five (2026-11-27): 0.359 with 25.7% of 2,048 tokens, full cache 0.350, 78 prompts. It ends
there: after 25, evicting while it reads, 12.8% stayed and a third less was answered, which records do not show.

The original's rule (what scores above zero stays, heads of a layer keep equally many) over the linear score a head of
`smollm2-heads` and how new a token is. Fitted first (see `experiments.fitted`), then moved by a change that all heads
share, their common threshold among it, with one point of fitness for the whole cache: keeping more has to pay.
"""

from dataclasses import replace

from evolve.fitness import FitnessConfig
from experiments.objective import FULL, UseConfig
from experiments.recipes import smollm2_ruler
from experiments.run_config import PromptConfig
from namm.selection import SelectionConfig

CONFIG = replace(
    smollm2_ruler.CONFIG,
    name="smollm2-threshold",
    stages=(replace(smollm2_ruler.CONFIG.stages[0], generations=5),),
    memory=replace(smollm2_ruler.CONFIG.memory, selection=SelectionConfig()),
    start=None,
    fit=64,
    fit_share=0.18,
    use=UseConfig(mode="recorded", budget=None, capacity=1024, chunk=128),
    fitness=FitnessConfig(grade_weight=1.0, kept_weight=1.0),
    prompts=PromptConfig(draw=24, pool=64, fresh=0, validation=40, held_out=24, streaming=24, batch=8),
    candidates=0,
    dtype="mixed",
    policies=(FULL,),
)
