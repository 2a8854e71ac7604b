"""The model card of a trained memory: what it is, where it came from, how to use it."""

from pathlib import Path
from typing import Any

import jax
from huggingface_hub import ModelCard, ModelCardData

from namm.folder import Contents
from namm.model import NammPolicy

GENERATED = "<!-- Written by namm. Without this line, the card stays as it is when the memory is saved again. -->"
PAPER = "https://arxiv.org/abs/2410.13166"
TEXT = """{marker}

# {name}

A Neural Attention Memory Model ([arXiv 2410.13166]({paper})): it decides which tokens of a transformer's KV cache stay.

| what | |
|---|---|
{rows}

## Use

```python
import namm
from hosts.pytorch import attach

memory = namm.load("{source}")
with attach(model, memory, budget={budget}):  # any transformers 5 Llama-like model
    output = model.generate(**inputs)
```
"""


def model_card(contents: Contents, data: ModelCardData, source: str) -> ModelCard:
    """A card of the memory's configuration and every entry of its provenance; `source` is what the example loads."""
    rows = {**_configuration(contents), **contents.provenance}
    text = TEXT.format(
        marker=GENERATED,
        name=_cell(contents.name),
        paper=PAPER,
        rows="\n".join(f"| {_cell(k.replace('_', ' '))} | {_cell(v)} |" for k, v in rows.items()),
        source=source,
        budget=_budget(contents),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{text}")


def is_generated(path: Path) -> bool:
    """Whether a card was written by `model_card` and not claimed by its reader since."""
    return GENERATED in path.read_text(encoding="utf-8", errors="replace")


def _configuration(contents: Contents) -> dict[str, Any]:
    assert isinstance(contents.policy, NammPolicy)
    config = contents.policy.config
    count = sum(x.size for x in jax.tree.leaves(contents.params.evolved))
    threshold = config.selection.threshold
    kept = "by budget" if threshold is None else f"{config.selection.mode}, scores of {threshold} and more"
    kept += "" if config.selection.budgets == "equal" else f", every {config.selection.budgets} its own share of it"
    return {
        "scorer": f"{config.scorer.kind}, {count} evolved parameters",
        "feature blocks": config.features,
        "relative to": "all tokens read" if config.relative == "read" else "the tokens held",
        "selection": f"{kept}; newest {config.selection.recent} and oldest {config.selection.sinks} protected",
        "update": f"every {config.interval} tokens",
    }


def _budget(contents: Contents) -> float | int | None:
    """The budget it was made for, or a quarter where it has neither that nor a threshold."""
    assert isinstance(contents.policy, NammPolicy)
    made = contents.provenance.get("budget")
    if type(made) in (int, float):
        return made
    return 0.25 if contents.policy.config.selection.threshold is None else None


def _cell(value: Any) -> str:
    """A value in one line of a table: lists by commas, mappings as `key value`."""
    if isinstance(value, dict):
        return ", ".join(f"{_cell(k)} {_cell(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ("; " if any(isinstance(v, dict) for v in value) else ", ").join(map(_cell, value))
    return " ".join(str(value).split()).replace("|", "\\|")
