"""A GGUF file: metadata -> HostSpec, quantised tensors -> float32 under Hugging Face names, vocabulary -> tokenizer.

Read with the `gguf` package alone; needs no torch. GGUF stores query and key rows so that RoPE pairs neighbours
(2i, 2i+1); Hugging Face pairs halves (i, i + dim/2), so these rows are put back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from hosts.gguf_tokenizer import build_tokenizer
from hosts.llama import llama3_frequencies
from hosts.spec import HostSpec, RopeSpec

OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INNER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
ROPE_FACTORS = "rope_freqs.weight"
READ = {
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
    "rope.freq_base", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.attn_factor", "rope.scaling.finetuned", "vocab_size",
    "expert_count",
}  # fmt: skip


class GGUFFile:
    """One GGUF file; `shapes` and `read` speak Hugging Face names and layout. Raises for anything but a plain Llama."""

    def __init__(self, path: Path):
        self.where = str(path)
        try:
            reader = gguf.GGUFReader(path)
        except Exception as error:  # the reader raises whatever a broken header leads it to
            raise ValueError(f"{path}: damaged or truncated GGUF file ({error}); fetch it again") from error
        self.fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        if (architecture := self.value("general.architecture")) != "llama":
            raise ValueError(f"{path}: general.architecture: got {architecture!r}, only 'llama' is supported")
        for name in self.fields:
            group, _, key = name.partition(".")
            if group not in ("general", "tokenizer", "quantize") and not (group == "llama" and key in READ):
                raise ValueError(f"{path}: unknown key {name!r} (value {self.value(name)!r})")
        self._tensors = {self._rename(tensor.name): tensor for tensor in reader.tensors}
        self._factors = self._tensors.pop(ROPE_FACTORS, None)
        self.shapes = {name: tuple(int(n) for n in tensor.shape[::-1]) for name, tensor in self._tensors.items()}

    def value(self, name: str, default: Any = None) -> Any:
        """A metadata value as Python data; ValueError where it is absent and has no default."""
        if name in self.fields:
            return self.fields[name].contents()
        if default is None:
            raise ValueError(f"{self.where}: the key {name!r} is missing")
        return default

    def _rename(self, name: str) -> str:
        if name in OUTER or name == ROPE_FACTORS:
            return OUTER.get(name, name)
        _, _, rest = name.partition("blk.")
        layer, _, module = rest.partition(".")
        module, _, kind = module.rpartition(".")
        if module not in INNER or kind not in ("weight", "bias"):
            raise ValueError(f"{self.where}: unknown tensor {name!r}")
        return f"model.layers.{layer}.{INNER[module]}.{kind}"

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantised to float32."""
        tensor = self._tensors[name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        values = values.reshape(self.shapes[name])
        if ".q_proj." in name or ".k_proj." in name:
            heads = self.value("llama.attention.head_count")
            heads = heads if ".q_proj." in name else self.value("llama.attention.head_count_kv", heads)
            pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        return values

    def spec(self, name: str) -> HostSpec:
        """The host that the metadata describes."""
        if self.value("llama.expert_count", 0):
            raise ValueError(f"{self.where}: llama.expert_count: mixtures of experts are not supported")
        heads, hidden = self.value("llama.attention.head_count"), self.value("llama.embedding_length")
        dim = self.value("llama.attention.key_length", hidden // heads)
        for key in ("llama.rope.dimension_count", "llama.attention.value_length"):
            if self.value(key, dim) != dim:
                raise ValueError(f"{self.where}: {key}: got {self.value(key)}, only the head size {dim} is supported")
        bos, eos = (self.fields.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos"))
        positions = self.value("llama.context_length")
        return HostSpec(
            name=name,
            layers=self.value("llama.block_count"),
            query_heads=heads,
            kv_heads=self.value("llama.attention.head_count_kv", heads),
            head_dim=dim,
            hidden=hidden,
            intermediate=self.value("llama.feed_forward_length"),
            vocabulary=self.shapes.get("model.embed_tokens.weight", (0,))[0],
            max_positions=positions,
            rope=self._rope(positions, dim),
            # stored in float32; the decimal is the value that was meant
            norm_epsilon=float(f"{self.value('llama.attention.layer_norm_rms_epsilon'):.6g}"),
            tied_embeddings="lm_head.weight" not in self.shapes,
            attention_bias="model.layers.0.self_attn.q_proj.bias" in self.shapes,
            mlp_bias="model.layers.0.mlp.gate_proj.bias" in self.shapes,
            bos_id=int(bos.contents()) if bos else None,
            eos_ids=(int(eos.contents()),) if eos else (),
        )

    def _rope(self, positions: int, dim: int) -> RopeSpec:
        theta = float(self.value("llama.rope.freq_base", 10_000.0))
        kind, factor = self.value("llama.rope.scaling.type", "none"), self.value("llama.rope.scaling.factor", 1.0)
        if self._factors is not None:
            return self._llama3(theta, dim)
        if kind == "none" or factor <= 1:
            return RopeSpec("default", theta)
        if kind == "linear":
            return RopeSpec("linear", theta, float(factor))
        if kind != "yarn":
            raise ValueError(f"{self.where}: llama.rope.scaling.type: got {kind!r}, supported are none, linear, yarn")
        if self.value("llama.rope.scaling.attn_factor", 1.0) != 1.0:
            raise ValueError(f"{self.where}: llama.rope.scaling.attn_factor: only 1.0 is supported")
        original = self.value("llama.rope.scaling.original_context_length", positions)
        return RopeSpec("yarn", theta, float(factor), original_max_positions=original)

    def _llama3(self, theta: float, dim: int) -> RopeSpec:
        """The llama3 rule is stored as its frequency divisors only; Llama 3.1 to 3.3 share the other constants."""
        assert self._factors is not None
        divisors = np.asarray(self._factors.data, np.float64)
        rope = RopeSpec("llama3", theta, float(divisors.max()), 1.0, 1.0, 4.0, 8192)
        frequencies = theta ** -(np.arange(0, dim, 2) / dim)
        if not np.allclose(frequencies / llama3_frequencies(rope, frequencies), divisors, rtol=1e-4):
            raise ValueError(f"{self.where}: {ROPE_FACTORS}: these divisors are not the ones of the llama3 rule")
        return rope

    def tokenizer(self) -> Any:
        """The tokenizer that the metadata describes."""
        wanted = {name: field.contents() for name, field in self.fields.items() if name.startswith("tokenizer.")}
        return build_tokenizer(wanted, Path(self.where))
