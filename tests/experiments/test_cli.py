"""The `namm` command as a user types it."""

import json
from pathlib import Path

import pytest

from experiments.cli import main
from namm.policies import POLICIES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evlove"], "unknown command 'evlove'"),
        (["evolve", "smolm2"], "unknown recipe 'smolm2'; expected one of smollm2,"),
        (["hosts", "--loud"], "takes no options"),
        (["evaluate", "--host", "pocket", "--memory", "keydif", "--task", "pocket-recall"], "unknown memory 'keydif'"),
        (["evaluate", "--host", "pocket", "--task", "niah", "--memory", "keydiff"], "a path that ends in .jsonl"),
        (["evaluate", "--host", "/nowhere/at/all", "--task", "passkey"], "/nowhere/at/all"),
        (["evaluate", "--host", "pocket", "--length", "9000", "--task", "pocket-recall"], "positions"),
        (["evaluate", "--host", "pocket", "--task", "pocket-recall", "--budget", "2", "--sinks", "4"], "protected"),
        (["evaluate", "--host", "pocket", "--budget", "None", "--memory", "keydiff"], "with keydiff, which has no"),
        (["evolve", "pocket", "--use.budget", "2.0"], "budget is 2.0"),
        (["evaluate", "--length", "64", "64"], "different lengths"),
        (["report", "nowhere"], "expected the folder of a finished"),
    ],
)
def test_mistakes_end_in_one_clear_line(words, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("--search.popluation", "8", "popluation"),
        ("--search.population", "2", "population: got 2"),
        ("--memory.interval", "100", "interval is 100"),
    ],
)
def test_a_bad_field_is_named(field: str, value: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["evolve", "pocket", field, value])
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_listings_and_help(capsys) -> None:
    for words in (["policies"], ["hosts"], ["--help"], []):
        assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("smollm2-135m", "pocket", "evaluate", *POLICIES))


def test_evaluate_a_users_own_task(tmp_path: Path, capsys) -> None:
    lines = [
        {"context": f"set red fox {i}. the old tree is green.", "question": " get red fox", "answers": [str(i)]}
        for i in range(100, 130)
    ]
    task = tmp_path / "own.jsonl"
    task.write_text("\n".join(json.dumps(line) for line in lines))
    words = ["evaluate", "--host", "pocket", "--memory", "streaming-llm", "--task", str(task), "--length", "64"]
    words += ["--budget", "0.5", "--prompts", "3", "--batch", "2", "--interval", "16", "--chunk", "16"]
    assert main([*words, "--folder", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {row["memory"]: row["prompts"] for row in rows} == {"streaming-llm": 3, "keep-all": 3}
    verdicts = [json.loads(line) for line in (tmp_path / "out" / "verdicts.jsonl").read_text().splitlines()]
    assert len(verdicts) == 6 and {v["split"] for v in verdicts} == {"test"}
    assert main([*words, "--folder", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "keep-all" in shown and "finished" in shown
    assert main(["report", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.html").is_file() and "report.html" in capsys.readouterr().out
