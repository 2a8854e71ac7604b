"""SmolLM2-135M, `smollm2-general` with other shares of the budget: they descend through the host at small budgets.

Claim: an eighth and a sixteenth of the cache answer better than with the shares that lose the least attention. Command:
`namm evolve smollm2-shares`. Hardware: two CPU cores.

The score is that of `smollm2-general`, number by number; 90 shares change (see `experiments.shares`), by what they cost
the answers of 90 prompts of RULER, code and plain instructions. The search would go on from there.
"""

from dataclasses import replace

from experiments.recipes import smollm2_general

GENERAL = smollm2_general.CONFIG

CONFIG = replace(
    GENERAL,
    name="smollm2-shares",
    start=GENERAL.name,
    fit=0,
    fit_read=(1.0,),
    descent=90,
    use=replace(GENERAL.use, budget=(0.125, 0.0625)),
)
