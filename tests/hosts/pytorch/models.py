"""Tiny random decoders of every family that `attach` is tested with."""

from typing import Any

import torch
import transformers

from tests.tiny import SIZES

FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Phi3": {"pad_token_id": 2},
    "Gemma": {"head_dim": 8, "num_key_value_heads": 1},
}


def tiny_model(family: str = "Llama", seed: int = 0, **overrides: Any) -> Any:
    """A random float32 model in eval mode that never ends a sequence by itself."""
    torch.manual_seed(seed)
    sizes = {**SIZES, "eos_token_id": None, "max_position_embeddings": 512, **FAMILIES[family], **overrides}
    config = getattr(transformers, f"{family}Config")(**sizes)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def prompts(seed: int, lengths: tuple[int, ...] = (70, 37, 65)) -> dict[str, torch.Tensor]:
    """Left-padded random prompts."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(3, 320, (len(lengths), width), generator=generator)
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.where(mask == 1, ids, 2), "attention_mask": mask}


GREEDY = {"do_sample": False, "max_new_tokens": 24, "pad_token_id": 2}
