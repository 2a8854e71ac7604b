"""Tiny random Llamas of `transformers` and a tiny tokenizer, saved as Hugging Face directories; offline, fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}


def tiny_llama(seed: int = 0, **overrides: Any) -> Any:
    """A random float32 LlamaForCausalLM in eval mode; `overrides` are LlamaConfig fields (MQA: num_key_value_heads=1).

    Norm weights and biases, constant after the library's own initialisation, are random as well.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **overrides})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3 + ("norm" in name))
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens behind `<s>` (0), `</s>` (1) and `<pad>` (2): any text, 259 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def save_host(directory: Path, model: Any, tokenizer: PreTrainedTokenizerFast | None = None, **options: Any) -> Path:
    """Write model and tokenizer as a Hugging Face directory; `options` go to `save_pretrained` (max_shard_size)."""
    model.save_pretrained(directory, **options)
    (tokenizer or tiny_tokenizer()).save_pretrained(directory)
    return directory
