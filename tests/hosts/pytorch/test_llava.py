"""Vision-language models: image and video tokens go through the same cache as words."""

import numpy as np
import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
)

from hosts.pytorch import attach, memory_report
from namm.artefact import training_free
from namm.config import MemoryConfig
from tests.hosts.pytorch.models import GREEDY
from tests.random_host import BUDGETED, random_memory

IMAGE, VIDEO, PAD = 60, 61, 2
PATCHES = 16  # tokens of an image: 16 x 16 pixels in patches of 4, without the class token
Inputs = dict[str, torch.Tensor]


def towers() -> dict:
    text = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, pad_token_id=PAD,
        initializer_range=0.2,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=4,
        projection_dim=16,
    )  # fmt: skip
    return {"text_config": text, "vision_config": vision, "image_token_index": IMAGE, "image_seq_length": PATCHES}


@pytest.fixture(scope="module")
def llava() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(LlavaConfig(**towers(), vision_feature_layer=-1)).eval()


def words(count: int) -> list[int]:
    return torch.randint(3, 50, (count,)).tolist()


def pictures(*images: int, tail: int = 20) -> tuple[list[int], torch.Tensor]:
    """A prompt with so many words before each image, and the images."""
    ids = []
    for before in images:
        ids += words(before) + [IMAGE] * PATCHES
    return ids + words(tail), torch.randn(len(images), 3, 16, 16)


def padded(*prompts: tuple[list[int], torch.Tensor]) -> Inputs:
    width = max(len(ids) for ids, _ in prompts)
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row, _ in prompts])
    return {
        "input_ids": ids,
        "attention_mask": (ids != PAD).long(),
        "pixel_values": torch.cat([images for _, images in prompts]),
    }


def new_tokens(model, inputs: Inputs) -> np.ndarray:
    return np.asarray(model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :])


def test_keep_all_is_the_stock_model(llava: LlavaForConditionalGeneration) -> None:
    """One and two images in a left-padded batch, read in chunks that cut through images."""
    inputs = padded(pictures(4), pictures(3, 9))
    expected = new_tokens(llava, inputs)
    with torch.no_grad():
        logits = llava(**inputs).logits
    with attach(llava, "keep-all", interval=16, chunk=10), torch.no_grad():
        np.testing.assert_array_equal(new_tokens(llava, inputs), expected)
        found = llava(**inputs).logits
    real = inputs["attention_mask"].bool()
    np.testing.assert_allclose(found[real], logits[real], atol=1e-4)


@pytest.mark.parametrize("name", ["keydiff", "streaming-llm", "namm"])
def test_eviction_drops_image_tokens_alike_in_any_batch(llava: LlavaForConditionalGeneration, name: str) -> None:
    memory = (
        random_memory(1, MemoryConfig(interval=16, selection=BUDGETED)) if name == "namm" else training_free(name)
    )
    prompts = pictures(4), pictures(3, 9)
    with attach(llava, memory, budget=18, interval=16):
        together = new_tokens(llava, padded(*prompts))
        held = memory_report(llava)
        alone = [new_tokens(llava, padded(prompt)) for prompt in prompts]
    assert max(int(layer.max()) for layer in held.kept) < 18 + 16 < min(held.seen)
    for row, single in zip(together, alone, strict=True):
        np.testing.assert_array_equal(row[: single.shape[1]], single[0])


def test_video_frames() -> None:
    """LLaVA-NeXT-Video: pooled frames of a clip are cache tokens like any others."""
    torch.manual_seed(1)
    made = LlavaNextVideoConfig(**towers(), video_token_index=VIDEO, spatial_pool_stride=2, vision_feature_layer=-1)
    model, frames = LlavaNextVideoForConditionalGeneration(made).eval(), 5
    ids = torch.tensor([[*words(6), *[VIDEO] * (frames * PATCHES // 4), *words(12)]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.randn(1, frames, 3, 16, 16),
    }
    expected = new_tokens(model, inputs)
    with attach(model, "keep-all", interval=16, chunk=7):
        np.testing.assert_array_equal(new_tokens(model, inputs), expected)
    with attach(model, "h2o", budget=16, interval=16):
        new_tokens(model, inputs)
        assert max(int(layer.max()) for layer in memory_report(model).kept) <= 32
