"""The figures that ``make coverage`` prints, from a report as ``coverage json`` writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.coverage_by_package import main


def _measured(taken: int, branches: int) -> dict[str, dict[str, int]]:
    return {"summary": {"covered_branches": taken, "num_branches": branches}}


def test_a_line_for_each_package_and_the_total(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Modules count for their own package, a deeper folder for the sub-package above it."""
    report = tmp_path / "report.json"
    files = {
        "mlflow_wandb_plugin/journal.py": _measured(1, 2),
        "mlflow_wandb_plugin/live/tap.py": _measured(3, 4),
        "mlflow_wandb_plugin/live/sitecustomize/sitecustomize.py": _measured(0, 4),
        "integrations/mlflow_wandb_ray/run_thread.py": _measured(0, 0),
        "scripts/check.py": _measured(9, 9),
    }
    report.write_text(json.dumps({"files": files}))
    assert main([str(report)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "mlflow_wandb_plugin 50.0 %",
        "mlflow_wandb_plugin/live 37.5 %",
        "mlflow_wandb_ray no branches",
        "core 40.0 %",
        "total 40.0 %",
    ]


@pytest.mark.parametrize(("bound", "code"), [("90", 0), ("90.1", 1)])
def test_a_core_below_the_bound_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bound: str, code: int
) -> None:
    """All of mlflow_wandb_plugin counts, and no integration; the bound itself is enough."""
    report = tmp_path / "report.json"
    files = {
        "mlflow_wandb_plugin/errors.py": _measured(10, 10),
        "mlflow_wandb_plugin/live/tap.py": _measured(8, 10),
        "integrations/mlflow_wandb_ray/run_thread.py": _measured(0, 80),
    }
    report.write_text(json.dumps({"files": files}))
    assert main([str(report), "--fail-under", bound]) == code
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-2:] == ["core 90.0 %", "total 18.0 %"]
    assert bool(shown.err) == bool(code)


def test_a_report_without_the_core_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A measurement that went wrong does not pass for a full one."""
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"files": {"scripts/check.py": _measured(9, 9)}}))
    assert main([str(report), "--fail-under", "90"]) == 1
    assert "no branch" in capsys.readouterr().err
