"""Pictures of MuJoCo's robots: where the rays meet them, what colour they have, and ground without them."""

import mujoco
import numpy as np
import pytest

from experiments.vision.robots import COLOURS, MODELS, SIDE, VIEW, _camera, _meet, _model, blank, pictures
from experiments.vision.tasks import find_task


def near(pixels: np.ndarray, colour: str) -> np.ndarray:
    """Pixels whose hue is the paint's in some light: brightness apart, within the paint's noise."""
    paint = np.array(COLOURS[colour], float)
    light = (pixels @ paint) / (paint @ paint)
    return (np.abs(pixels - light[..., None] * paint).max(-1) < 25) & (light > 0.4) & (light < 1.3)


@pytest.mark.parametrize("name", MODELS)
def test_rays_meet_the_robot_where_a_pinhole_shows_its_parts(name: str) -> None:
    model = _model(name)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    eye, rays = _camera(np.random.default_rng(3), data.subtree_com[0], 4.0)
    fine = round(len(rays) ** 0.5)
    met, normal = _meet(model, data, eye, rays)
    assert 0.002 < met.mean() < 0.5
    forward = rays.reshape(fine, fine, 3)[[fine // 2 - 1, fine // 2], [fine // 2 - 1, fine // 2]].mean(0)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0]) / np.linalg.norm(np.cross(forward, [0, 0, 1.0]))
    seen = 0
    for part in np.flatnonzero(model.geom_bodyid > 0):  # the world's own is the ground
        offset = data.geom_xpos[part] - eye
        across, up = (offset @ axis / (offset @ forward) / VIEW for axis in (right, np.cross(right, forward)))
        column, row = (int((1 + place) / 2 * fine) for place in (across, -up))
        if 0 <= column < fine and 0 <= row < fine:
            assert met.reshape(fine, fine)[row, column]
            seen += 1
    assert seen > 1
    facing = np.einsum("ij,ij->i", normal[met], rays[met])
    assert (facing < 1e-9).all()  # surfaces that are seen face the eye
    np.testing.assert_allclose(np.linalg.norm(normal[met], axis=1), 1.0, atol=1e-6)


def test_a_robot_has_the_colour_that_is_asked_for() -> None:
    for picture in pictures("test")[:60]:
        pixels = picture.pixels().astype(float)
        assert pixels.shape == (SIDE, SIDE, 3)
        assert {one.kind: one.answer for one in picture.questions} == {"robot": picture.name, "colour": picture.colour}
        assert near(pixels, picture.colour).mean() > 0.005


def test_the_empty_ground_has_none_of_the_colours() -> None:
    for seed in range(20):
        pixels = blank(np.random.default_rng(seed)).astype(float)
        for colour in ("red", "green", "blue", "yellow", "black"):  # white is the light ground's hue
            assert near(pixels, colour).mean() < 1e-3
        assert pixels.std() > 5  # tiles and sky


def test_all_robots_and_colours_occur_and_no_picture_twice() -> None:
    for split in ("train", "test"):
        assert {one.name for one in pictures(split)} == set(MODELS)
        assert {one.colour for one in pictures(split)} == set(COLOURS)
    assert not {one.seed for one in pictures("train")} & {one.seed for one in pictures("test")}
    some = [one.pixels().tobytes() for split in ("train", "test") for one in pictures(split)[:40]]
    assert len(set(some)) == 80
    again = [one.pixels().tobytes() for one in pictures("train")[:40]]
    assert some[:40] == again


def test_a_clip_shows_one_robot() -> None:
    clip = find_task("robots-16").clip(7)
    assert [one.kind for one in clip.questions] == ["robot", "colour"]
    robot = pictures("test")[7]
    np.testing.assert_array_equal(clip.frames[clip.place], robot.pixels())
    assert len({frame.tobytes() for frame in clip.frames}) == 16
