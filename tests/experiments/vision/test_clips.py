"""Pictures, blank frames and clips: what is asked can be seen, once, and nowhere else."""

import importlib.util
from importlib import reload

import numpy as np
import pytest

from experiments import vision
from experiments.vision.shapes import ANSWERS, blank, pictures
from experiments.vision.tasks import TASKS, find_task


def test_a_clip_shows_one_picture_among_different_blank_frames() -> None:
    places = set()
    for seed in range(12):
        clip = find_task("vqa-16").clip(seed)
        assert clip.frames.shape == (16, 64, 64, 3)
        assert len({frame.tobytes() for frame in clip.frames}) == 16
        darkest = clip.frames.min(axis=(1, 2, 3))  # a shape is darker in some channel than any background
        assert darkest.argmin() == clip.place and sum(darkest < 150) == 1
        assert [one.kind for one in clip.questions] == list(ANSWERS)
        places.add(clip.place)
    assert len(places) > 6  # 12 draws of 16 places: fewer have a chance of 2 in 1000


def test_clips_follow_from_their_seeds() -> None:
    first, again, other = (find_task("vqa-4").clip(seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert (first.place, first.questions) == (again.place, again.questions)
    assert not np.array_equal(first.frames[first.place], other.frames[other.place])


def test_answers_are_those_of_the_picture() -> None:
    """The colour that is asked for is what its pixels show."""
    shades = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "gray": (128, 128, 128)}
    shades |= {"teal": (0, 128, 128), "black": (0, 0, 0), "yellow": (255, 255, 0), "brown": (165, 42, 42)}
    for picture in pictures("test")[:50]:
        (colour,) = {one.answer for one in picture.questions if one.kind == "colour"}
        assert (picture.pixels() == shades[colour]).all(-1).any()
        assert len({one.answer for one in picture.questions if one.kind == "shape"}) == 1


def test_training_pictures_are_others() -> None:
    assert not {one.path for one in pictures("train")} & {one.path for one in pictures("test")}
    assert len(pictures("train")) > 2000 and len(pictures("test")) > 500


def test_blank_frames_are_of_three_kinds() -> None:
    frames = [blank(np.random.default_rng(seed)).astype(float) for seed in range(30)]
    spread = [(frame.std((0, 1)).max(), np.abs(np.diff(frame, axis=0)).max()) for frame in frames]
    assert sum(s == 0 for s, _ in spread) > 3  # plain
    assert sum(step > 20 for _, step in spread) > 3  # noise
    assert sum(s > 0 and step <= 2 for s, step in spread) > 3  # shaded


def test_unknown_tasks_are_named() -> None:
    known = "vqa-1, vqa-4, vqa-16, vqa-64, robots-1, robots-4, robots-16, robots-64"
    with pytest.raises(ValueError, match=f"unknown vision task 'vqa-5'; expected one of {known}"):
        find_task("vqa-5")
    assert [task.frames for task in TASKS.values()] == 2 * [1, 4, 16, 64]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "easy_vqa" else name)
    with pytest.raises(ImportError, match=r"easy_vqa missing; .* pip install -c constraints.txt -e '.\[vision\]'"):
        reload(vision)
    monkeypatch.undo()
    reload(vision)
