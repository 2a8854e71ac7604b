"""The house rules that tools check: style, types, and who may import whom."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = {
    "ruff": [sys.executable, "-m", "ruff", "check", "."],
    "pyright": [sys.executable, "-m", "pyright"],
    "imports": ["lint-imports"],
}


@pytest.mark.parametrize("tool", TOOLS)
def test_tool(tool: str) -> None:
    command = TOOLS[tool]
    if tool == "imports":
        command = [str(Path(sys.executable).parent / "lint-imports")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_importing_namm_stays_light() -> None:
    program = "import sys, namm; print(sorted({'torch', 'transformers', 'evosax'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
