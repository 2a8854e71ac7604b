"""One file a result: claim, command, hardware, time, expected score. `RECIPES` holds their configurations by name."""

from experiments.recipes import (
    contents,
    llama3_8b,
    pocket,
    smollm2,
    smollm2_general,
    smollm2_heads,
    smollm2_mixed,
    smollm2_original,
    smollm2_ruler,
    smollm2_shares,
    smollm2_threshold,
)
from experiments.run_config import RunConfig

RECIPES: dict[str, RunConfig] = {
    config.name: config
    for config in (
        smollm2.CONFIG,
        contents.CONFIG,
        smollm2_heads.CONFIG,
        smollm2_heads.THRESHOLD,
        smollm2_mixed.CONFIG,
        smollm2_general.CONFIG,
        smollm2_shares.CONFIG,
        smollm2_original.CONFIG,
        smollm2_ruler.CONFIG,
        smollm2_threshold.CONFIG,
        pocket.CONFIG,
        *llama3_8b.CONFIGS,
    )
}
DESCRIPTIONS: dict[str, str] = {
    smollm2.CONFIG.name: "SmolLM2-135M, recorded scoring, minutes on two cores (the default)",
    contents.CONFIG.name: "SmolLM2-135M and the pocket host at once, keys and values alone, for other hosts",
    smollm2_heads.CONFIG.name: "SmolLM2-135M with parameters for every head, recorded scoring of RULER",
    smollm2_heads.THRESHOLD.name: "the same with a threshold in place of a budget",
    smollm2_mixed.CONFIG.name: "SmolLM2-135M, an MLP for every head, recorded scoring of RULER and code",
    smollm2_general.CONFIG.name: "the same, fitted to plain instructions about prose, documentation and code too",
    smollm2_shares.CONFIG.name: "the same, with shares of the budget for small caches",
    smollm2_original.CONFIG.name: "SmolLM2-135M with the paper's memory, search and threshold",
    smollm2_ruler.CONFIG.name: "SmolLM2-135M, `smollm2-heads` moved while it reads RULER, for an accelerator",
    smollm2_threshold.CONFIG.name: "SmolLM2-135M, a score for every head with a threshold in place of a budget",
    pocket.CONFIG.name: "the pocket host, evicting while it reads, seconds on two cores",
    **{config.name: f"the paper's curriculum up to stage {i}" for i, config in enumerate(llama3_8b.CONFIGS, 1)},
}
