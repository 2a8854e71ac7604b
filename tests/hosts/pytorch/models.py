"""Tiny random decoders of every family that `attach` is tested with."""

from typing import Any

import torch
import transformers
from transformers import DecisionTransformerConfig, DecisionTransformerModel

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


def tiny_player(state: int, action: int, noise: float, **overrides: Any) -> DecisionTransformerModel:
    """A Decision Transformer of two layers and two heads, all parameters random, `noise` added even to biases."""
    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 2, **overrides}
    made = DecisionTransformerModel(DecisionTransformerConfig(state_dim=state, act_dim=action, **sizes)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return made


def prompts(seed: int, lengths: tuple[int, ...] = (70, 37, 65)) -> dict[str, torch.Tensor]:
    """Left-padded random prompts."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(3, 320, (len(lengths), width), generator=generator)
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.where(mask == 1, ids, 2), "attention_mask": mask}


GREEDY = {"do_sample": False, "max_new_tokens": 24, "pad_token_id": 2}
