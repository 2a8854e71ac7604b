"""Selection by its rules, slot by slot, in plain NumPy."""

import numpy as np

LOWEST = np.finfo(np.float32).min


def select(scores, positions, valid, mode, threshold, recent, sinks, budget, kept):
    """Kept slots of every head as a list of ascending index lists."""
    heads, slots = scores.shape
    ranked, passed = [], []
    for h in range(heads):
        held = [s for s in range(slots) if valid[h, s]]
        keys = {}
        for age, s in enumerate(reversed(held)):
            value = float(np.clip(np.nan_to_num(scores[h, s], nan=LOWEST), LOWEST, -LOWEST))  # infinite ones too
            keys[s] = np.inf if age < recent or positions[h, s] < sinks else value
        ranked.append(sorted(held, key=lambda s: (-keys[s], s)))
        passed.append(sum(threshold is None or keys[s] >= threshold for s in held))
    result = []
    for h in range(heads):
        wanted = passed[h] if mode == "strict" else max(passed)
        result.append(sorted(ranked[h][: min(wanted, budget, kept)]))
    return result
