"""SmolLM2-135M, `smollm2-mixed` fitted to needles, code and answers to plain instructions about real texts.

Claim: what a small cache loses is little whatever is read and asked, not on needles and code alone. Command: `namm
evolve smollm2-general`. Hardware: two CPU cores. What ships is its fitted start (2026-11-28): RULER at 1,024 tokens, an
eighth kept while reading, -0.664 nats a target token, full cache -0.640, the same memory with equal budgets -1.284.

Fitted to needles and code, `smollm2-mixed` loses more than `smollm2-heads` on plain instructions (docs/findings.md);
what the host itself answers to them (`instructions/*`) needs no labels and mends it. A score that knows how new a token
is judges it anew at every update: so does the fit, with what the memory has read by then.

Heads have budgets of their own: some look at few tokens and some at many, and a budget alike for all starves the latter
(docs/findings.md). The fit shares the tokens out; the search moves the 90 shares.
"""

from dataclasses import replace

from evolve.strategy import SearchConfig
from experiments.recipes import smollm2_mixed
from namm.selection import SelectionConfig

TEXTS = ("prose", *(f"{kind}/{package}" for kind in ("docs", "code") for package in ("scipy", "matplotlib")))

CONFIG = replace(
    smollm2_mixed.CONFIG,
    name="smollm2-general",
    memory=replace(smollm2_mixed.CONFIG.memory, selection=SelectionConfig(threshold=None, budgets="head")),
    fit=120,
    fit_tasks=tuple(f"instructions/{text}" for text in TEXTS),
    fit_read=(0.4, 0.7, 1.0),
    directions="budgets",
    search=SearchConfig(algorithm="cma-es", population=16, sigma=0.1),
    dtype="mixed",
)
