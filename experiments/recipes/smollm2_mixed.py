"""SmolLM2-135M, an MLP for every head over what keys and values are, how new a token is and what kind of text it reads.

Claim: at a quarter of the cache, evicting while it reads, RULER and code, on which `smollm2-heads` fails, are answered
about as with the full cache. Command: `namm evolve smollm2-mixed`. Hardware: two CPU cores.

A line cannot serve both: needles ask for tokens that stand out, wherever they are, code asks for the newest. The levels
of a head tell one kind of text from the other, and an MLP can weigh the features by them (see docs/findings.md). Two
packages' code is trained on, two are left for held-out tables.
"""

from dataclasses import replace

from experiments.recipes import smollm2_heads
from experiments.run_config import PromptConfig, StageConfig
from namm.config import ScorerConfig

HEADS = smollm2_heads.CONFIG
TASKS = (*HEADS.stages[0].tasks, "code-completion/scipy", "code-completion/matplotlib")

CONFIG = replace(
    HEADS,
    name="smollm2-mixed",
    stages=(StageConfig(TASKS, 1024, 20),),
    memory=replace(
        HEADS.memory,
        features=(*HEADS.memory.features, "newness", "levels"),
        scorer=ScorerConfig(kind="mlp", hidden=16, sets=(30, 3)),
    ),
    fit=80,
    prompts=PromptConfig(draw=20, pool=80, fresh=0, validation=40, held_out=30, streaming=0, batch=10),
)
