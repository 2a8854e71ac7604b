"""A fast tokenizer from a GGUF file's metadata, assembled with `tokenizers` (no torch).

GGUF stores vocabulary, merges and special tokens, but names the way text is split before the merges only by a label,
`tokenizer.ggml.pre`; a label that is not known here is an error, since another split gives other tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# the split that the Llama 3 vocabulary was trained with (its published tokenizer.json)
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LLAMA3 = ("llama3", "llama-v3", "llama-bpe")
SMOLLM = ("smollm",)
GPT2 = ("gpt-2", "default")


def build_tokenizer(metadata: Mapping[str, Any], path: Path) -> Any:
    """Tokenizer of the GGUF file at `path` from its `tokenizer.*` metadata.

    A vocabulary of another kind than byte-level BPE needs a `tokenizer.json` beside the file.
    """
    values = {name.removeprefix("tokenizer.").removeprefix("ggml."): value for name, value in metadata.items()}
    if not values.get("tokens"):
        raise FileNotFoundError(f"{path}: holds no tokenizer (key 'tokenizer.ggml.tokens')")
    kind, split = values.get("model"), values.get("pre", "default")
    if kind != "gpt2" or split not in LLAMA3 + SMOLLM + GPT2:
        if (path.parent / "tokenizer.json").is_file():
            return PreTrainedTokenizerFast.from_pretrained(path.parent, local_files_only=True)
        raise ValueError(
            f"{path}: tokenizer.ggml.model {kind!r} with tokenizer.ggml.pre {split!r} is not supported; "
            "put the model's tokenizer.json and tokenizer_config.json beside the file"
        )
    try:
        tokenizer = _byte_level_bpe(values, split)
        special = {
            f"{name}_token": values["tokens"][values[f"{key}_token_id"]]
            for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
            if f"{key}_token_id" in values
        }
    except Exception as error:  # the library raises bare exceptions on a broken vocabulary
        raise ValueError(f"{path}: the tokenizer's metadata is damaged ({error!r}); fetch the file again") from error
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=values.get("chat_template"), **special)


def _byte_level_bpe(values: Mapping[str, Any], split: str) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(values["tokens"])}
    merges = [(first, second) for first, _, second in (merge.partition(" ") for merge in values["merges"])]
    # Llama 3 takes a piece that is a token as it is, even where no chain of merges leads to it
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=split in LLAMA3))
    tokenizer.pre_tokenizer = _pre_tokenizer(split)
    tokenizer.decoder = decoders.ByteLevel()
    for token, type_ in zip(values["tokens"], values.get("token_type", ()), strict=False):
        if type_ == TokenType.CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif type_ == TokenType.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False)])
    if values.get("add_bos_token", split in LLAMA3):
        bos = values["tokens"][values["bos_token_id"]]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, values["bos_token_id"])]
        )
    return tokenizer


def _pre_tokenizer(split: str) -> pre_tokenizers.PreTokenizer:
    if split in LLAMA3:
        cut = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
        return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split in SMOLLM:  # every digit is a token of its own
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    return words
