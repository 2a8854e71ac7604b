"""Pictures of MuJoCo's robots in a colour each, which robot and which colour they are, and the empty ground.

They are drawn by MuJoCo's ray casting, which needs neither a display nor a graphics driver: the robot falls freely for
a while under random torques, and a camera beside it looks at it from a random angle and height.
"""

import functools
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium.envs.mujoco
import numpy as np
from jaxtyping import Bool, Float, UInt8

from experiments.vision.pictures import Album, Question, Split

mujoco: Any = import_module("mujoco")  # its bindings have no types
MODELS = MappingProxyType(
    {  # what it is called: gymnasium's model, and how far away the camera stands (m)
        "hopper": ("hopper.xml", 2.2),
        "cheetah": ("half_cheetah.xml", 2.2),
        "human": ("humanoid.xml", 2.4),
        "ant": ("ant.xml", 3.2),
        "snake": ("swimmer.xml", 3.2),
    }
)
COLOURS = MappingProxyType(
    {
        "red": (220, 35, 35), "green": (45, 170, 60), "blue": (45, 75, 220), "yellow": (235, 215, 45),
        "black": (22, 22, 22), "white": (250, 250, 250),
    }
)  # fmt: skip
ANSWERS = {"robot": tuple(MODELS), "colour": tuple(COLOURS)}
COUNTS = {"train": 2400, "test": 600}
SIDE, FINER = 64, 2  # pixels of a side, rays of a pixel's side
VIEW = np.tan(np.radians(22.5))  # half of the camera's field
LIGHT = np.array([-0.3, -0.6, 0.75]) / np.linalg.norm([-0.3, -0.6, 0.75])


@dataclass(frozen=True)
class Robot:
    """A robot of `MODELS` in one of `COLOURS`; pose, camera and ground follow from the seed."""

    name: str
    colour: str
    seed: tuple[int, int]

    @property
    def questions(self) -> tuple[Question, ...]:
        return Question("robot", "which robot is it?", self.name), Question(
            "colour", "what color is the robot?", self.colour
        )

    def pixels(self) -> UInt8[np.ndarray, "64 64 3"]:
        """The picture: MuJoCo's physics for 0 to 150 steps, then one ray for every part of a pixel."""
        rng, model = np.random.default_rng(self.seed), _model(self.name)
        data = mujoco.MjData(model)
        for _ in range(int(rng.integers(16))):
            data.ctrl[:] = rng.uniform(*model.actuator_ctrlrange.T)
            mujoco.mj_step(model, data, 10)
        mujoco.mj_forward(model, data)
        camera = _camera(rng, data.subtree_com[0] + rng.normal(0, 0.15, 3), MODELS[self.name][1])
        frame = _ground(rng, *camera)
        met, normal = _meet(model, data, *camera)
        shade = 0.45 + 0.55 * np.clip(normal @ LIGHT, 0, 1)
        paint = np.clip(COLOURS[self.colour] + rng.normal(0, 8, 3), 0, 255)
        return _pixels(np.where(met[:, None], paint * shade[:, None], frame))


@functools.cache
def pictures(split: Split) -> tuple[Robot, ...]:
    """The robots in turn, a colour drawn for each; no pose or view occurs in both splits."""
    rng = np.random.default_rng([split == "test", 1])
    colours, names = rng.choice(list(COLOURS), COUNTS[split]), list(MODELS)
    return tuple(
        Robot(names[i % len(names)], str(colour), (int(split == "test"), i)) for i, colour in enumerate(colours)
    )


def blank(rng: np.random.Generator) -> UInt8[np.ndarray, "64 64 3"]:
    """The ground that no robot is on."""
    distance = float(rng.choice([distance for _, distance in MODELS.values()]))
    return _pixels(_ground(rng, *_camera(rng, np.array([0.0, 0.0, rng.uniform(0.0, 1.2)]), distance)))


@functools.cache
def _model(name: str) -> Any:
    folder = Path(gymnasium.envs.mujoco.__file__).parent / "assets"
    return mujoco.MjModel.from_xml_path(str(folder / MODELS[name][0]))


def _camera(
    rng: np.random.Generator, target: Float[np.ndarray, " 3"], distance: float
) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, "ray 3"]]:
    """Where a camera that looks at a point stands, and the directions of its rays, row by row from the top left."""
    yaw, pitch = rng.uniform(-0.6, 0.6), rng.uniform(0.1, 0.5)
    forward = np.array([np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.cos(yaw), -np.sin(yaw), 0.0])
    across = ((np.arange(SIDE * FINER) + 0.5) / (SIDE * FINER) * 2 - 1) * VIEW
    rays = forward + across[None, :, None] * right - across[:, None, None] * np.cross(right, forward)
    rays = rays.reshape(-1, 3) / np.linalg.norm(rays.reshape(-1, 3), axis=1, keepdims=True)
    return target - distance * rng.uniform(0.9, 1.1) * forward, rays


def _ground(
    rng: np.random.Generator, eye: Float[np.ndarray, " 3"], rays: Float[np.ndarray, "ray 3"]
) -> Float[np.ndarray, "ray 3"]:
    """Colours of a chequered ground at height 0 that fades into a light sky."""
    sky, low, high = rng.uniform(190, 235, 3), rng.uniform(115, 150), rng.uniform(155, 190)
    far = np.where(rays[:, 2] < -1e-3, eye[2] / -np.minimum(rays[:, 2], -1e-3), np.inf)[:, None]
    where = (eye + np.where(np.isfinite(far), far, 0.0) * rays)[:, :2] + rng.uniform(0, 1, 2)
    tile = np.where(np.floor(where).astype(int).sum(1) % 2, low, high)[:, None]
    clear = np.exp(-far / 12)
    return clear * tile + (1 - clear) * sky


def _meet(
    model: Any, data: Any, eye: Float[np.ndarray, " 3"], rays: Float[np.ndarray, "ray 3"]
) -> tuple[Bool[np.ndarray, " ray"], Float[np.ndarray, "ray 3"]]:
    """Which rays meet the robot, and its surface's normals there."""
    shape = np.full(len(rays), -1, np.int32)
    distance, normal = np.zeros(len(rays)), np.zeros(rays.size)
    mujoco.mj_multiRay(model, data, eye, rays.ravel(), None, 0, -1, shape, distance, normal, len(rays), mujoco.mjMAXVAL)
    return shape >= 0, normal.reshape(-1, 3)


def _pixels(colours: Float[np.ndarray, "ray 3"]) -> UInt8[np.ndarray, "64 64 3"]:
    """Rays averaged over pixels."""
    fine = colours.reshape(SIDE, FINER, SIDE, FINER, 3).mean((1, 3))
    return np.clip(fine, 0, 255).round().astype(np.uint8)


ROBOTS = Album(ANSWERS, pictures, blank)
