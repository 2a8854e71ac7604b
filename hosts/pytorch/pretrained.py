"""The hosts that can be named, as `transformers` models."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from hosts.weights import locate


def load_model(source: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """A causal language model from anything that `hosts.weights.load_host` takes, and with its errors."""
    path, options = locate(source), {}
    if path.suffix == ".gguf":
        path, options = path.parent, {"gguf_file": path.name}
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options).eval()
