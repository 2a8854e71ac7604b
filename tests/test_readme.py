"""What the README says runs."""

from pathlib import Path

import pytest

import namm
from tests.random_host import BUDGETED, random_memory

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code = README.split("```python\n")[1].split("```")[0]
    folder = tmp_path / "memory"
    random_memory(0, namm.MemoryConfig(selection=BUDGETED, interval=64)).save_pretrained(folder)
    for shown, here in (("smollm2-135m", "pocket"), ("runs/smollm2/memory", str(folder))):
        assert shown in code
        code = code.replace(shown, here)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_the_ci_line_is_in_the_readme() -> None:
    lines = [line for line in README.splitlines() if line.startswith("pip install") and "&& pytest" in line]
    assert len(lines) == 1
