"""Vision and video hosts of the real classes whose decoders are tiny and random, and whose tokenizers know words."""

import zlib
from pathlib import Path
from types import SimpleNamespace

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from hosts.pytorch.vision import TowerConfig, VisionHost, join, trained_tower
from tests.tiny import SIZES

IMAGE = 5


class Words:
    """Every word is a token, nearly always one of its own."""

    bos_token_id = 0

    def __call__(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[10 + zlib.crc32(word.encode()) % 300 for word in text.split()])


def tiny_vision() -> VisionHost:
    torch.manual_seed(0)
    model = join(LlamaConfig(**{**SIZES, "max_position_embeddings": 512}), IMAGE).eval().requires_grad_(False)
    model.model.vision_tower = trained_tower(TowerConfig())
    for parameter in model.model.multi_modal_projector.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.1)
    return VisionHost(model, Words())


def save_video_host(folder: Path) -> None:
    """A LLaVA-NeXT-Video of the real class, tiny and random: four tokens a frame; and a tokenizer that knows words."""
    text = LlamaConfig(**{**SIZES, "max_position_embeddings": 128})
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4,
        projection_dim=16,
    )  # fmt: skip
    config = LlavaNextVideoConfig(
        text_config=text, vision_config=vision, video_token_index=1, image_token_index=2, vision_feature_layer=-1,
        spatial_pool_stride=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaNextVideoForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.3 if parameter.ndim > 1 else 1.0)
    model.save_pretrained(folder)
    words = ["<s>", "<video>", "<image>", "USER", ":", "ASSISTANT", "Question", *"ABCDE", "."]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate([*words, "<unk>"])}, "<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>", additional_special_tokens=["<video>", "<image>"]
    ).save_pretrained(folder)
