"""The embedded LLaVA: its tower, its parts put together, and what a memory does to clips of several frames."""

import re
import sys

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlavaForConditionalGeneration

from experiments.vision.transfer import Viewer, VisionTransfer
from hosts import smollm2
from hosts.pytorch import attach, memory_report, vision
from hosts.pytorch.vision import TOKENS, TowerConfig, join, load_vision, pixel_values, trained_tower
from hosts.weights import PRETRAINED
from namm.artefact import load
from tests.tiny import SIZES

IMAGE, PAD = 5, 2


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    """The real classes, the real tower; a random projector and two random layers of text."""
    torch.manual_seed(0)
    made = join(LlamaConfig(**{**SIZES, "eos_token_id": None, "max_position_embeddings": 512}), IMAGE).eval()
    made.model.vision_tower = trained_tower(TowerConfig())  # a random one sees nothing
    with torch.no_grad():
        for parameter in made.model.multi_modal_projector.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return made


def images(count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8))


def clips(frames: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A clip and a question of three tokens in every row, padded on the left."""
    rows = [[0] + [IMAGE] * (TOKENS * count) + [7, 8, 9] for count in frames]
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixel_values(images(sum(frames)))}


def answers(model: LlavaForConditionalGeneration, inputs: dict[str, torch.Tensor]) -> tuple[list, torch.Tensor]:
    """Greedy tokens and the logits they were chosen by."""
    out = model.generate(
        **inputs, do_sample=False, max_new_tokens=6, pad_token_id=PAD, output_logits=True, return_dict_in_generate=True
    )
    return out.sequences[:, inputs["input_ids"].shape[1] :].tolist(), torch.stack(out.logits, dim=1)


def test_the_tower_is_the_package_s_own_convolutions() -> None:
    """Its tokens go through the head of 1,000 classes to the package's own answer."""
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(1)
    whole = EfficientNet.from_name("efficientnet-lite0", image_size=64).eval()
    tower = vision.Tower(TowerConfig()).eval()
    assert not tower.network.load_state_dict(whole.state_dict(), strict=False).missing_keys
    seen = pixel_values(images(3))
    with torch.no_grad():
        out = tower(pixel_values=seen)
        assert out.last_hidden_state.shape == (3, TOKENS, 320) and out.hidden_states[-1] is out.last_hidden_state
        grid = out.last_hidden_state.transpose(1, 2).unflatten(2, (2, 2))
        found = whole._swish(whole._bn1(whole._conv_head(grid)))
        torch.testing.assert_close(found, whole.extract_features(seen))
    assert found.std() > 0


def test_pixels_are_scaled_as_in_training() -> None:
    shown = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    shown[0, 1, 2] = torch.tensor([255, 127, 0], dtype=torch.uint8)
    np.testing.assert_allclose(pixel_values(shown)[0, :, 1, 2], [1.0, 0.0, -127 / 128])


def test_keep_all_is_the_stock_model(model) -> None:
    """A clip alone, and rows of several frames under padding."""
    for frames in ((5,), (5, 1, 3)):
        inputs = clips(frames)
        expected, logits = answers(model, inputs)
        with attach(model, "keep-all", interval=512):
            found, same = answers(model, inputs)
        assert found == expected
        torch.testing.assert_close(same, logits, rtol=0, atol=1e-5)


def test_frames_matter_in_their_order(model) -> None:
    """What the law above compares is not the text alone."""
    inputs = clips((3,))
    turned = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
    assert not torch.allclose(answers(model, inputs)[1], answers(model, turned)[1], atol=1e-3)


def test_eviction_is_the_same_in_any_batch(model) -> None:
    frames = (7, 2, 4)
    inputs, memory = clips(frames), load("smollm2")
    with attach(model, memory, budget=8, interval=16):
        together = answers(model, inputs)[0]
        held = memory_report(model)
        assert max(int(layer.max()) for layer in held.kept) < 8 + 16 < max(held.seen)
        pixels = inputs["pixel_values"].split(frames)
        for row, count in enumerate(frames):
            alone = {**clips((count,)), "pixel_values": pixels[row]}
            assert answers(model, alone)[0] == together[row : row + 1]


def test_surprisal_is_refused(model) -> None:
    with pytest.raises(ValueError, match="sirllm asks for surprisal, which the image tokens of a Llava"):
        attach(model, "sirllm", budget=16)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no vision host; expected .* or a folder with projector"):
        load_vision(tmp_path)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ModuleNotFoundError, match=r'efficientnet_lite_pytorch is missing; .* install "namm\[vision\]"'):
        vision.Tower(TowerConfig())


@pytest.mark.smollm2
def test_the_shipped_host_answers(capsys: pytest.CaptureFixture) -> None:
    """The example of its card, and the bar of 85% on clips that nobody trained on."""
    try:
        smollm2.fetch()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    card = (PRETRAINED / "llava-smollm2" / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict = {}
    exec(compile(example, "llava-smollm2/README.md", "exec"), names)
    assert capsys.readouterr().out.strip() == "red"
    viewer, task = Viewer(names["host"]), VisionTransfer("vqa-4")
    with attach(names["host"].model, "keep-all"):
        played = task.play(viewer, list(range(500, 510)), None)
    assert np.mean([one.returned for one in played]) >= 0.85
