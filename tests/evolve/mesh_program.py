"""Run by test_mesh.py in processes of their own: prints the scores of a sharded evaluation as JSON."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from evolve.mesh import MODEL, agree, gather, make_mesh, place, shard_population, start_processes


def evaluate(population, weights, prompts):
    """Each candidate scales a two-layer network with shared weights."""

    def one(candidate):
        hidden = jnp.tanh(prompts @ weights["up"] * candidate["scale"])
        return {"score": (hidden @ weights["down"]).mean(axis=1), "kept": candidate["scale"].mean()}

    return jax.vmap(one)(population)


def main(model: int) -> None:
    start_processes()
    rng = np.random.default_rng(0)
    population = {"scale": rng.normal(size=(16, 12)).astype(np.float32)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in [("up", (6, 12)), ("down", (12, 4))]}
    prompts = rng.normal(size=(5, 6)).astype(np.float32)
    mesh = make_mesh(model)
    placed = place(weights, mesh, {"up": PartitionSpec(None, MODEL), "down": PartitionSpec(MODEL, None)})
    result = shard_population(evaluate, mesh)(population, placed, place(prompts, mesh))
    whole = gather(result)
    report = {
        "devices": jax.device_count(),
        "shards": len({str(shard.index) for shard in result["score"].global_shards}),
        "score": whole["score"].tolist(),
        "kept": whole["kept"].tolist(),
        "agreed": agree(jax.process_index() == 0),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(int(sys.argv[1]))
