"""The projector's training: what a step learns from, and runs that were killed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.recipes import train_vision as module
from experiments.recipes.train_vision import Data, TrainConfig, align, draw, features, loss, train
from experiments.vision.shapes import SHAPES, blank, pictures
from experiments.vision.tasks import TASKS
from hosts.pytorch.vision import VisionHost, pixel_values
from tests.experiments.vision.tiny import tiny_vision

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # convolutions of a batch and of one image differ by rounding


@pytest.fixture(scope="module")
def host() -> VisionHost:
    return tiny_vision()


@pytest.fixture(scope="module")
def data(host: VisionHost) -> Data:
    rng, found = np.random.default_rng(0), pictures("train")[:6]
    return Data(
        SHAPES, found, features(host, [one.pixels() for one in found]), features(host, [blank(rng) for _ in range(9)])
    )


def test_features_are_the_tower_s(host: VisionHost, data: Data) -> None:
    pixels = pixel_values(torch.from_numpy(data.pictures[4].pixels())[None])
    with torch.no_grad():
        seen = host.model.model.vision_tower(pixels).last_hidden_state
    torch.testing.assert_close(data.shown[4:5], seen, **CLOSE)


def test_batches_show_one_picture_and_ask_about_it(data: Data) -> None:
    seen, asked = draw(np.random.default_rng(1), data, frames=4, clips=5)
    assert seen.shape == (5, 4, 4, 320) and len(asked) == 10
    for clip in range(5):
        shown = [(frame, i) for frame in range(4) for i in range(6) if torch.equal(seen[clip, frame], data.shown[i])]
        ((_, picture),) = shown
        assert set(asked[2 * clip : 2 * clip + 2]) <= set(data.pictures[picture].questions)


def test_the_loss_is_that_of_whole_prompts(host: VisionHost, data: Data) -> None:
    """Clips read once and questions behind a shared cache, against the stock model on every prompt from its pixels."""
    seen = data.shown[:2, None]
    asked = [one for picture in data.pictures[:2] for one in SHAPES.ask(picture, np.random.default_rng(0))]
    with torch.no_grad():
        found, _ = loss(host, seen, asked)
        wanted = []
        for place, one in enumerate(asked):
            pixels = pixel_values(torch.from_numpy(data.pictures[place // 2].pixels())[None])
            ids = torch.tensor([host.clip(1) + host.question(one.text)])
            logits = host.model(input_ids=ids, pixel_values=pixels).logits[0, -1]
            wanted.append(-logits.log_softmax(-1)[host.answer(one.answer)])
    torch.testing.assert_close(found, torch.stack(wanted).mean(), rtol=1e-4, atol=1e-4)


def test_alignment_brings_tokens_to_their_words(host: VisionHost, data: Data) -> None:
    host = tiny_vision()
    host.model.model.multi_modal_projector.requires_grad_(True)
    align(host, data, TrainConfig(aligned=400))
    embed = host.model.get_input_embeddings()
    for picture, seen in zip(data.pictures, data.shown, strict=True):
        answers = {one.kind: one.answer for one in picture.questions}
        wanted = embed(torch.tensor([host.answer(word) for word in answers.values()])).sum(0)
        found = host.model.model.multi_modal_projector(seen).mean(0)
        assert torch.cosine_similarity(found, wanted, dim=0) > 0.9


def test_a_killed_run_gives_the_same_projector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dozen = replace(SHAPES, pictures=lambda _: pictures("train")[:12])
    monkeypatch.setattr(module, "TASKS", {name: replace(task, album=dozen) for name, task in TASKS.items()})
    few = {"aligned": 5, "tokens": 60, "blanks": 10, "save_every": 2}
    whole = train(TrainConfig(steps=6, checkpoints=tmp_path / "whole", **few), tiny_vision())
    calls, true = iter(range(4)), module.loss

    def dies(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return true(*arguments)

    monkeypatch.setattr(module, "loss", dies)
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig(steps=6, checkpoints=tmp_path / "part", **few), tiny_vision())
    monkeypatch.setattr(module, "loss", true)
    part = train(TrainConfig(steps=6, checkpoints=tmp_path / "part", **few), tiny_vision())
    for a, b in zip(*(one.model.model.multi_modal_projector.parameters() for one in (whole, part)), strict=True):
        assert torch.equal(a, b)


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ValueError, match="expected sizes of 1 or more"):
        TrainConfig(steps=0)
    with pytest.raises(ValueError, match="host is 'nope'; expected one of llava-robots, llava-smollm2"):
        TrainConfig(host="nope")
