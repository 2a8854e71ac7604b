"""Which generation belongs to which stage."""

from dataclasses import dataclass

import pytest

from evolve.curriculum import Curriculum, Stage


def test_generations_fill_the_stages_in_order():
    curriculum = Curriculum((Stage("a", 2), Stage("b", 1, {"length": 8}), Stage("c", 3)))
    assert [curriculum.stage_at(g).name for g in range(curriculum.generations)] == list("aabccc")
    assert curriculum.index_at(99) == 2
    assert curriculum.stage_at(2).payload == {"length": 8}


def test_bad_curricula_are_errors():
    @dataclass
    class Mutable:
        length: int = 3

    with pytest.raises(ValueError, match="no stages"):
        Curriculum(())
    with pytest.raises(ValueError, match="each name once"):
        Curriculum((Stage("a", 1), Stage("a", 2)))
    with pytest.raises(ValueError, match="at least 1"):
        Stage("a", 0)
    with pytest.raises(ValueError, match="frozen"):
        Stage("a", 1, Mutable())
    with pytest.raises(ValueError, match="zero or more"):
        Curriculum((Stage("a", 1),)).stage_at(-1)
