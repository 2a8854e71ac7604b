"""The hosts that can be named, as `transformers` models."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from hosts.directory import longest_context, read_tokenizer
from hosts.gguf_file import GGUFFile
from hosts.spec import HostSpec, RopeSpec
from hosts.weights import Host, locate


def load_model(source: str | Path, dtype: torch.dtype = torch.float32, device_map: str | None = None) -> Any:
    """A causal language model from anything that `hosts.weights.load_host` takes, and with its errors.

    Any architecture of `transformers`, not Llama alone. device_map: where its layers go, see `accelerate`.
    """
    path, options = locate(source), {}
    if path.suffix == ".gguf":
        path, options = path.parent, {"gguf_file": path.name}
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, device_map=device_map, **options).eval()


def everywhere() -> str | None:
    """The `device_map` of a model that may take all accelerators that there are; None where there are none."""
    return "auto" if torch.accelerator.is_available() else None


def from_hub(kind: Any, source: str | Path, **options: Any) -> Any:
    """`kind.from_pretrained`; FileNotFoundError where neither the disk nor the hub has it."""
    try:
        return kind.from_pretrained(source, **options)
    except OSError as error:
        raise FileNotFoundError(f"{source}: no such folder, and the hub did not provide it: {error}") from error


def outline(source: str | Path, model: Any) -> Host:
    """Sizes, end tokens and tokenizer of a model from `load_model`, for prompts and tables.

    It has no weights: `params` is the shape and type of the embedding. Biases and the RoPE rule's kind are not told.
    """
    path, config = locate(source), model.config
    positions = config.max_position_embeddings
    given = (config.eos_token_id, model.generation_config.eos_token_id)
    ends = {one for ids in given for one in (ids if isinstance(ids, list) else [ids])} - {None}
    rope = getattr(config, "rope_parameters", None) or {}
    heads = config.num_attention_heads
    spec = HostSpec(
        name=str(source),
        layers=config.num_hidden_layers,
        query_heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        max_positions=longest_context(
            rope.get("rope_type", "default"),
            positions,
            rope.get("original_max_position_embeddings"),
            rope.get("factor", 1.0),
        ),
        rope=RopeSpec("default", rope.get("rope_theta", 10000.0)),
        norm_epsilon=getattr(config, "rms_norm_eps", 1e-6),
        tied_embeddings=config.tie_word_embeddings,
        attention_bias=False,
        mlp_bias=False,
        bos_id=config.bos_token_id,
        eos_ids=tuple(sorted(ends)),
    )
    embedding = model.get_input_embeddings().weight
    kind = np.dtype(str(embedding.dtype).removeprefix("torch."))
    tokenizer = GGUFFile(path).tokenizer() if path.suffix == ".gguf" else read_tokenizer(path)
    return Host(spec, {"embedding": jax.ShapeDtypeStruct(tuple(embedding.shape), kind)}, tokenizer)
