"""GGUF files written here from tiny `transformers` models."""

from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest

from hosts.gguf_file import INNER, OUTER
from hosts.weights import load_host
from tests.tiny import SIZES, save_host, tiny_llama, tiny_tokenizer


def write_gguf(path: Path, model: Any, skip: str = "", extra: dict[str, Any] | None = None, **tokens: Any) -> Path:
    """A float32 GGUF file of a tiny model; rows of queries and keys are paired as neighbours, as GGUF has it."""
    writer = gguf.GGUFWriter(path, "llama")
    config, dim = model.config, model.config.head_dim
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    for key, value in (extra or {}).items():
        if isinstance(value, np.ndarray):
            writer.add_tensor(key, value)
        else:
            writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    add_tokenizer(writer, **tokens)
    names = {theirs: ours for ours, theirs in OUTER.items()}
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = parameter.numpy().copy()
        if name.startswith("model.layers."):
            _, _, layer, rest = name.split(".", 3)
            module, kind = rest.rsplit(".", 1)
            ours = {theirs: ours for ours, theirs in INNER.items()}[module]
            names[name] = f"blk.{layer}.{ours}.{kind}"
            if ours in ("attn_q", "attn_k"):
                halves = values.reshape(-1, 2, dim // 2, *values.shape[1:])
                values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        if not skip or skip not in names[name]:
            writer.add_tensor(names[name], values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: gguf.GGUFWriter, kind: str = "gpt2", split: str = "gpt-2", bos: bool = False) -> None:
    vocabulary = tiny_tokenizer().get_vocab()
    words = [*sorted(vocabulary, key=lambda word: vocabulary[word]), "ab"]
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(split)
    writer.add_token_list(words)
    writer.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(bos)


@pytest.mark.parametrize("tied", [False, True])
def test_gguf_equals_the_directory_it_came_from(tmp_path: Path, tied: bool) -> None:
    model = tiny_llama(np.random.randint(1 << 30), attention_bias=True, tie_word_embeddings=tied)
    left, right = load_host(write_gguf(tmp_path / "a.gguf", model)), load_host(save_host(tmp_path / "host", model))
    jax.tree.map(np.testing.assert_array_equal, left.params, right.params)
    assert left.spec.rope == right.spec.rope and left.spec.norm_epsilon == right.spec.norm_epsilon
    assert (left.spec.tied_embeddings, left.spec.bos_id, left.spec.eos_ids) == (tied, 0, (1,))


def test_tokenizer_of_the_file(tmp_path: Path) -> None:
    text = "Zahlen: 1234 </s> ünd so"
    plain = load_host(write_gguf(tmp_path / "a.gguf", tiny_llama())).tokenizer
    assert plain(text).input_ids == tiny_tokenizer()(text).input_ids
    assert plain.bos_token == "<s>" and plain.decode(plain(text).input_ids) == text
    assert plain("cabb").input_ids == [plain.convert_tokens_to_ids(part) for part in ("c", "ab", "b")]
    started = load_host(write_gguf(tmp_path / "b.gguf", tiny_llama(), bos=True)).tokenizer
    assert started(text).input_ids == [0, *plain(text).input_ids]


def test_unknown_splits_need_a_tokenizer_file(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", tiny_llama(), split="unheard-of")
    with pytest.raises(ValueError, match=r"unheard-of.*tokenizer\.json"):
        load_host(file)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert len(load_host(file).tokenizer) == 259


def test_llama3_rule_is_recognised_by_its_divisors(tmp_path: Path) -> None:
    turns = 8192 * 5e5 ** -(np.arange(0, 16, 2) / 16) / (2 * np.pi)
    kept = np.clip((turns - 1) / 3, 0, 1)
    model = tiny_llama(head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    length = {"llama.attention.key_length": 16, "llama.attention.value_length": 16}
    divisors = (1 / (kept + (1 - kept) / 32)).astype(np.float32)
    file = write_gguf(tmp_path / "a.gguf", model, extra=length | {"rope_freqs.weight": divisors})
    rope = load_host(file, tokenizer=False).spec.rope
    assert (rope.kind, rope.factor, rope.original_max_positions) == ("llama3", 32.0, 8192)
    file = write_gguf(tmp_path / "b.gguf", model, extra=length | {"rope_freqs.weight": divisors + 1})
    with pytest.raises(ValueError, match="rope_freqs"):
        load_host(file, tokenizer=False)


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_scaling_keys(tmp_path: Path, kind: str) -> None:
    extra = {"llama.rope.scaling.type": kind, "llama.rope.scaling.factor": 4.0}
    spec = load_host(write_gguf(tmp_path / "a.gguf", tiny_llama(), extra=extra), tokenizer=False).spec
    assert (spec.rope.kind, spec.rope.factor) == (kind, 4.0)


@pytest.mark.parametrize(
    "key, value",
    [
        ("llama.attention.sliding_window", 128),
        ("llama.expert_count", 8),
        ("llama.rope.scaling.type", "longrope"),
        ("llama.logit_scale", 2.0),
    ],
)
def test_foreign_keys_are_errors(tmp_path: Path, key: str, value: Any) -> None:
    extra = {key: value, "llama.rope.scaling.factor": 2.0}
    with pytest.raises(ValueError, match=key.removeprefix("llama.")):
        load_host(write_gguf(tmp_path / "a.gguf", tiny_llama(), extra=extra))


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", tiny_llama(), skip="blk.1.ffn_up")
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj.*missing"):
        load_host(file)
    whole = write_gguf(tmp_path / "b.gguf", tiny_llama()).read_bytes()
    for part in (whole[: len(whole) // 2], whole[:100], b"", whole[:-64]):
        file.write_bytes(part)
        with pytest.raises(ValueError, match=r"a\.gguf.*damaged or truncated"):
            load_host(file)
    assert SIZES["vocab_size"] == 320  # larger than the tokenizer on purpose: padded vocabularies load
