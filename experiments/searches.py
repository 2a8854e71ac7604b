"""`namm searches`: variants of a recipe at equal evaluations and several seeds, in one table and figure; resumable."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from experiments.figures import draw_searches
from experiments.recipes import RECIPES
from experiments.recipes.variants import VARIANTS
from experiments.records import check_same, write_whole
from experiments.run_config import RunConfig
from experiments.training import check_goes_on, evolve_memory, settings_of
from hosts.weights import Host, load_host

ROWS, FIGURE = "searches.json", "searches.png"


@dataclass(frozen=True)
class SearchesConfig:
    """Which variants of which recipe; the same command again goes on.

    variants: see experiments/recipes/variants.py; default all. seeds: of the search and of the prompts, from 0.
    generations: in place of the recipe's (in its only stage). disk: GiB of records kept in the cache folder for the
    variants that read the same prompts.
    """

    recipe: str = "pocket"
    variants: tuple[str, ...] = tuple(VARIANTS)
    seeds: int = 3
    generations: int | None = None
    disk: float = 0.0
    folder: Path | None = None

    def __post_init__(self) -> None:
        for kind, known, named in (("recipe", RECIPES, (self.recipe,)), ("variants", VARIANTS, self.variants)):
            if unknown := [name for name in named if name not in known]:
                raise ValueError(f"{kind}: got {', '.join(unknown)}; expected some of {', '.join(known)}")
        if self.seeds < 1 or not self.variants:
            raise ValueError(f"seeds is {self.seeds} and variants {self.variants}; expected at least one of each")
        if self.generations is not None and (self.generations < 1 or len(RECIPES[self.recipe].stages) > 1):
            raise ValueError(f"generations is {self.generations}; expected 1 or more, of a recipe with one stage")

    def base(self) -> RunConfig:
        config = replace(RECIPES[self.recipe], disk=self.disk)
        if self.generations is None:
            return config
        return replace(config, stages=(replace(config.stages[0], generations=self.generations),))


@dataclass(frozen=True)
class SearchRow:
    """One search: its best validated mean on held-out prompts, and what it took.

    exact, grade: share answered exactly and mean log-likelihood (nats a token); full_*: the full cache's. evaluations:
    candidates x prompts that were scored. curve: (evaluations, validation score) pairs.
    """

    variant: str
    seed: int
    parameters: int
    exact: float
    grade: float
    full_exact: float
    full_grade: float
    kept: float
    best_generation: int
    evaluations: int
    seconds: float
    curve: tuple[tuple[int, float], ...]


def searches(config: SearchesConfig, console: Console) -> list[SearchRow]:
    """Run every variant with every seed, print a table, write searches.json and the figure."""
    folder = config.folder or Path("runs") / f"searches-{config.recipe}"
    base = config.base()
    runs = [(name, seed) for seed in range(config.seeds) for name in config.variants]
    variants = {name: replace(VARIANTS[name](base), name=name) for name in config.variants}  # errors before any work
    for name, seed in runs:
        check_goes_on(replace(variants[name], seed=seed), folder / f"{name}-{seed}")
    console.print(f"Host {base.host}: loading")
    host, rows = load_host(base.host, dtype=jnp.dtype(base.dtype), rope=base.rope), []
    for number, (name, seed) in enumerate(runs, start=1):
        console.print(f"{name}, seed {seed} ({number} of {len(runs)})")
        row = one_search(replace(variants[name], seed=seed), host, folder / f"{name}-{seed}")
        if row is None:
            console.print(f"Interrupted; the same command goes on in {folder}")
            break
        console.print(f"  exact {row.exact:.3f}, log-likelihood {row.grade:.3f}, {row.seconds:.0f} s")
        rows.append(row)
        write_whole(folder / ROWS, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        draw_searches(rows, folder / FIGURE)
    if rows:
        console.print(searches_table(config.recipe, rows))
    return rows


def one_search(config: RunConfig, host: Host, folder: Path) -> SearchRow | None:
    """The search in its folder, or what it found if it is done; None where it was interrupted."""
    done, settings = folder / "row.json", settings_of(config)
    if done.is_file():
        kept = json.loads(done.read_text())
        check_same(kept["settings"], settings, done)
        return SearchRow(**{**kept["row"], "curve": tuple(map(tuple, kept["row"]["curve"]))})
    begin = time.monotonic()
    found = evolve_memory(config, host, folder, Console(quiet=True))
    if found.result.stopped != "finished":
        return None
    evolved = found.memory.params.evolved
    each = config.search.population * config.scored(config.stages[-1])
    curve = [(row["generation"] * each, row["validation"]) for row in found.result.history if "validation" in row]
    row = SearchRow(
        variant=config.name,
        seed=config.seed,
        parameters=sum(x.size for x in jax.tree.leaves(evolved)),
        **found.runner().judge(evolved, "test", config.prompts.held_out),
        best_generation=int(found.result.state.best_generation),
        evaluations=each * sum(stage.generations for stage in config.stages),
        seconds=time.monotonic() - begin,
        curve=tuple(curve),
    )
    write_whole(done, json.dumps({"settings": settings, "row": asdict(row)}) + "\n")
    return row


def searches_table(title: str, rows: Sequence[SearchRow]) -> Table:
    """A line a variant, the best mean first: mean over seeds, the lowest and the highest."""
    table = Table(title=f"{title}: held-out prompts, mean over seeds (lowest to highest)", box=SIMPLE)
    for name in ("variant", "parameters", "exact", "log-likelihood", "best generation", "evaluations", "seconds"):
        table.add_column(name)
    groups = {name: [row for row in rows if row.variant == name] for name in dict.fromkeys(r.variant for r in rows)}
    for name, group in sorted(groups.items(), key=lambda item: -np.mean([row.grade for row in item[1]])):
        scores = (_spread([getattr(row, part) for row in group]) for part in ("exact", "grade"))
        best, seconds = ", ".join(str(row.best_generation) for row in group), np.mean([row.seconds for row in group])
        table.add_row(name, str(group[0].parameters), *scores, best, str(group[0].evaluations), f"{seconds:.0f}")
    full = rows[0]
    table.add_row("full cache", "", f"{full.full_exact:.3f}", f"{full.full_grade:.3f}", "", "", "")
    return table


def _spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
