"""Run by test_loop.py in a process of its own: a short search that can be killed; prints its result as JSON."""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from evolve.curriculum import Curriculum, Stage
from evolve.loop import Evaluation, LoopConfig, run
from evolve.mesh import gather, make_mesh, shard_population, start_processes
from evolve.strategy import SearchConfig

CURRICULUM = Curriculum((Stage("near", 4, {"target": 0.5}), Stage("far", 4, {"target": 1.0})))
START = {"w": np.zeros((3, 2), np.float32), "b": np.full(2, 0.1, np.float32)}  # no device before start_processes


def distances(population, points):
    flat = jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(population)], axis=1)
    return jnp.exp(-jnp.square(flat[:, None] - points).mean(axis=-1))


def make_evaluate(mesh=None, pause=0.0):
    score = jax.jit(distances) if mesh is None else shard_population(distances, mesh)

    def evaluate(population, context):
        time.sleep(pause)
        noise = np.random.default_rng(context.seed).normal(size=(5, 8)) * 0.1
        points = (context.stage.payload["target"] + noise).astype(np.float32)
        scores = gather(score(population, points))[:, None]
        return Evaluation(scores, np.ones((1, 5)), kept=np.full(len(scores), 0.25), info={"noise": float(noise.mean())})

    return evaluate


def validate(mean, context):
    points = np.full((1, 8), context.stage.payload["target"], np.float32)
    one = jax.tree.map(lambda leaf: leaf[None], mean)
    return {"score": float(np.asarray(distances(one, points))[0, 0]), "size": 8.0}


def search(folder, mesh=None, pause=0.0, algorithm="sep-cma-es", evaluate=None, console=None, **options):
    return run(
        START,
        evaluate or make_evaluate(mesh, pause),
        CURRICULUM,
        folder,
        search=SearchConfig(algorithm, 8, 0.2),
        config=LoopConfig(validate_every=2, **options),
        validate=validate,
        fingerprint={"program": 1},
        console=console or Console(quiet=True),
    )


def digest(result):
    leaves = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves((result.state, result.best_mean))]
    return {"state": leaves, "generation": result.state.generation, "stopped": result.stopped}


if __name__ == "__main__":
    several = start_processes()
    print(json.dumps(digest(search(sys.argv[1], make_mesh() if several else None, float(sys.argv[2]), sys.argv[3]))))
