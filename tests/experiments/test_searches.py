"""Variants of a recipe: what each changes, equal evaluations, resume, the table and the figure."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from experiments import searches as module
from experiments.recipes import RECIPES
from experiments.recipes.variants import VARIANTS
from experiments.run_config import PromptConfig, RunConfig
from experiments.searches import ROWS, SearchesConfig, searches, searches_table
from tests.tiny import save_host, tiny_llama

pytestmark = pytest.mark.usefixtures("compile_quickly")
QUIET = Console(quiet=True)
POCKET = RECIPES["pocket"]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("recipe", ["pocket", "smollm2"])
def test_a_variant_is_a_valid_run_of_equal_cost(recipe: str, name: str) -> None:
    base = RECIPES[recipe]
    changed = VARIANTS[name](base)
    assert changed.host == base.host and changed.use == base.use

    def evaluations(config: RunConfig) -> int:
        return sum(s.generations for s in config.stages) * config.search.population * config.prompts.draw

    assert evaluations(changed) == evaluations(base)
    counts = changed.prompts
    assert not any(count % counts.batch for count in (counts.draw, counts.validation, counts.held_out))
    same = {"pocket": {"recipe", "cold-start", "bam"}, "smollm2": {"recipe", "warm-start", "linear"}}
    assert (changed == base) == (name in same[recipe] | {"one-set", "set-a-layer"})


def test_variants_with_fewer_sets_of_parameters() -> None:
    base = RECIPES["smollm2-heads"]
    sets = [VARIANTS[name](base).memory.scorer.sets for name in ("recipe", "set-a-layer", "one-set")]
    assert sets == [(30, 3), (30,), ()]


@pytest.fixture
def small(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    model = tiny_llama(max_position_embeddings=512, num_hidden_layers=1)
    stage = replace(POCKET.stages[0], length=256, generations=2)
    config = replace(
        POCKET,
        host=str(save_host(tmp_path_factory.mktemp("host"), model)),
        stages=(stage,),
        search=replace(POCKET.search, population=4),
        prompts=PromptConfig(2, 2, 2, 2, 2, 0, 2),
        validate_every=1,
    )
    monkeypatch.setitem(RECIPES, "pocket", config)
    return config


def test_searches_resume_and_report(small: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SearchesConfig("pocket", ("recipe", "lm-ma-es", "original-features"), seeds=2, folder=tmp_path)
    rows = searches(config, QUIET)
    assert [(row.variant, row.seed) for row in rows] == [(v, s) for s in (0, 1) for v in config.variants]
    assert {row.evaluations for row in rows} == {2 * 4 * 2}
    assert [evaluations for evaluations, _ in rows[0].curve] == [0, 8, 16]
    assert rows[0].curve[0] == rows[3].curve[0] and rows[0].curve[1:] != rows[3].curve[1:]  # another seed
    assert (tmp_path / "searches.png").stat().st_size > 1000
    shown = Console(width=200, record=True, quiet=False)
    shown.print(searches_table("pocket", rows))
    text = shown.export_text()
    assert all(name in text for name in (*config.variants, "full cache"))

    monkeypatch.setattr(module, "evolve_memory", lambda *args: pytest.fail("searched again"))
    again = searches(config, QUIET)
    strip = [json.loads(json.dumps(vars(row))) for row in rows]
    assert [json.loads(json.dumps(vars(row))) for row in again] == strip
    assert json.loads((tmp_path / ROWS).read_text()) == strip
    with pytest.raises(ValueError, match=r"^stages: .* resumes with the settings"):
        searches(replace(config, generations=3), QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "pockets"}, "recipe: got pockets"),
        ({"variants": ("recipe", "adam")}, "variants: got adam"),
        ({"seeds": 0}, "seeds is 0"),
        ({"generations": 0}, "generations is 0"),
    ],
)
def test_bad_settings(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchesConfig(**change)
