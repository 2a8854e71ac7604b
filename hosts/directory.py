"""A Hugging Face directory: config.json -> HostSpec, safetensors (one file or shards) -> tensors, tokenizer files.

Unknown or unsupported configuration is an error that names the key: a key that changes the computation and is silently
ignored gives a host that answers nonsense.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors looks up by name)
import numpy as np
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerFast

from hosts.spec import HostSpec, RopeSpec

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)
# read below, with the defaults that LlamaConfig has
READ = {
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
    "attention_bias", "mlp_bias", "rope_theta", "rope_scaling", "rope_parameters", "bos_token_id", "eos_token_id",
}  # fmt: skip
# keys with exactly one supported meaning (None stands for "absent")
ONLY: dict[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "architectures": (["LlamaForCausalLM"],),
    "hidden_act": ("silu", "swish"),
    "pretraining_tp": (1,),
    "sliding_window": (None,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1, 1.0),
    "rope_interleaved": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "is_decoder": (False, True),
    "tie_encoder_decoder": (False,),
}
# keys without a meaning for a forward pass in inference
HARMLESS = {
    "initializer_range", "use_cache", "pad_token_id", "sep_token_id", "decoder_start_token_id", "torch_dtype", "dtype",
    "transformers_version", "attention_dropout", "hidden_dropout", "_name_or_path", "name_or_path", "is_llama_config",
    "transformers.js_config", "output_attentions", "output_hidden_states", "return_dict", "id2label", "label2id",
    "problem_type", "chunk_size_feed_forward", "torchscript", "use_bfloat16", "finetuning_task", "task_specific_params",
    "tokenizer_class", "prefix", "unsloth_version", "unsloth_fixed", "_attn_implementation_autoset", "max_length",
    "min_length", "do_sample", "early_stopping", "num_beams", "temperature", "top_k", "top_p", "typical_p",
    "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "remove_invalid_values",
}  # fmt: skip
ROPE_KEYS: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "dynamic": {"factor", "original_max_position_embeddings"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
        "mscale", "mscale_all_dim", "truncate",
    },
}  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object from a file; a clear error when it is missing or broken."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a Hugging Face directory, complete with {path.name}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); fetch the file again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: got a JSON {type(value).__name__}, expected an object")
    return value


def read_spec(directory: Path, name: str) -> HostSpec:
    """HostSpec of a Hugging Face directory; accepts the old (`rope_theta`, `rope_scaling`) and new RoPE keys.

    Raises ValueError naming the key for anything unknown or unsupported. Llama 3 keeps its end-of-turn token in
    generation_config.json only, so the end tokens of both files count.
    """
    config = read_json(directory / "config.json")
    where = f"{directory / 'config.json'}"
    _check_keys(config, where)
    sizes = {key: _integer(config, key, where) for key in SIZES}
    heads = sizes["num_attention_heads"]
    positions = _integer(config, "max_position_embeddings", where, 2048)
    rope, longest = _rope(config, positions, where)
    return HostSpec(
        name=name,
        layers=sizes["num_hidden_layers"],
        query_heads=heads,
        kv_heads=_integer(config, "num_key_value_heads", where, heads),
        head_dim=_integer(config, "head_dim", where, sizes["hidden_size"] // heads),
        hidden=sizes["hidden_size"],
        intermediate=sizes["intermediate_size"],
        vocabulary=sizes["vocab_size"],
        max_positions=longest,
        rope=rope,
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        bos_id=config.get("bos_token_id", 1),
        eos_ids=_end_tokens(config.get("eos_token_id", 2), directory),
    )


def _check_keys(config: Mapping[str, Any], where: str) -> None:
    if "model_type" not in config:
        raise ValueError(f"{where}: model_type is missing, expected 'llama'")
    for key, value in config.items():
        if key in ONLY:
            if value is not None and value not in ONLY[key]:
                expected = " or ".join(map(repr, ONLY[key]))
                raise ValueError(f"{where}: {key}: got {value!r}, only {expected} is supported")
        elif key not in HARMLESS and key not in READ and key not in SIZES and value is not None:
            raise ValueError(
                f"{where}: unknown key {key!r} (value {value!r}); only plain Llama models are supported. "
                "Remove the key if it does not change the model's output."
            )


def _integer(config: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{where}: {key}: got {value!r}, expected a positive integer")
    return value


def _rope(config: Mapping[str, Any], positions: int, where: str) -> tuple[RopeSpec, int]:
    """The RoPE rule and the longest context it is meant for."""
    new, old = config.get("rope_parameters"), config.get("rope_scaling")
    if new and old and new != old:
        raise ValueError(f"{where}: rope_parameters and rope_scaling contradict each other; remove one")
    values = dict(new or old or {})
    kind, legacy = values.pop("rope_type", None), values.pop("type", None)
    kind = kind or legacy or "default"
    theta = float(values.pop("rope_theta", config.get("rope_theta") or 10_000.0))
    if values.pop("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"{where}: partial_rotary_factor: only 1.0 is supported")
    if kind not in ROPE_KEYS:
        raise ValueError(f"{where}: rope_type: got {kind!r}, supported are {', '.join(ROPE_KEYS)}")
    values = {key: value for key, value in values.items() if value is not None}
    for key, value in values.items():
        if not isinstance(value, int | float):
            raise ValueError(f"{where}: {key} of the RoPE rule: got {value!r}, expected a number")
    if unknown := set(values) - ROPE_KEYS[kind]:
        raise ValueError(f"{where}: rope_type {kind!r} does not know the key {sorted(unknown)[0]!r}")
    if kind != "default" and "factor" not in values:
        raise ValueError(f"{where}: rope_type {kind!r} needs the key 'factor'")
    original = values.pop("original_max_position_embeddings", None)
    if kind in ("dynamic", "llama3", "yarn"):
        original = original or positions
    numbers: dict[str, Any] = {key: value if isinstance(value, bool) else float(value) for key, value in values.items()}
    rope = RopeSpec(kind=kind, theta=theta, original_max_positions=int(original) if original else None, **numbers)
    return rope, longest_context(kind, positions, original, rope.factor)


def longest_context(kind: str, positions: int, original: int | float | None, factor: int | float) -> int:
    """Positions that a RoPE rule is meant for; `positions` are stated, `original` before scaling if that is known."""
    # a linear model may state its length before or after scaling: the stated one is safe
    stretched = round((original or positions) * factor) if kind in ("dynamic", "yarn") else positions
    return max(positions, stretched)


def _end_tokens(value: int | list[int] | None, directory: Path) -> tuple[int, ...]:
    path = directory / "generation_config.json"
    extra = read_json(path).get("eos_token_id") if path.is_file() else None
    lists = [[] if ids is None else [ids] if isinstance(ids, int) else ids for ids in (value, extra)]
    return tuple(dict.fromkeys(lists[0] + lists[1]))


class SafetensorFiles:
    """Tensors of a directory by name: `shapes` is known after opening, `read` fetches one tensor as a NumPy array.

    Opening checks that every file of the index exists, is complete, and holds what the index says.
    """

    def __init__(self, directory: Path):
        self.where = str(directory)
        self._files: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
        if single.is_file() or not index.is_file():
            self._open(single, None)
            return
        names: dict[str, str] = read_json(index).get("weight_map", {})
        for shard in sorted(set(names.values())):
            self._open(directory / shard, {name for name, file in names.items() if file == shard})

    def _open(self, path: Path, expected: set[str] | None) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: weight file is missing; fetch it again (only safetensors are read)")
        try:
            file = safe_open(path, framework="numpy")
            names = set(file.keys())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: damaged or truncated weight file ({error}); fetch it again") from error
        if expected is not None and (missing := expected - names):
            raise ValueError(f"{path}: the index lists {sorted(missing)[0]!r} here, but the file does not hold it")
        for name in names:
            self._files[name] = file
            self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        return self._files[name].get_tensor(name)


def read_tokenizer(directory: Path) -> Any:
    """The directory's fast tokenizer, without any network."""
    if not any((directory / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        raise FileNotFoundError(
            f"{directory / 'tokenizer.json'}: tokenizer is missing; copy it from the model's origin"
        )
    try:
        return PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the reader raises bare exceptions of several libraries
        raise ValueError(f"{directory}: the tokenizer cannot be read ({error}); fetch its files again") from error
