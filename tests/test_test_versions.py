"""``make test-versions``: which releases it installs, and what it counts."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scripts import test_versions
from tests.support.documents import ROOT


def test_readme_names_the_releases_of_mlflow_that_are_tested() -> None:
    """Each release that is tested is in README.md."""
    text = " ".join((ROOT / "README.md").read_text().split())
    named = text.partition("tested with mlflow ")[2].partition("`mlflow-wandb doctor`")[0]
    for release in test_versions.MLFLOW:
        assert release in named


def test_release_whose_parts_are_not_to_be_had_replaces_the_newest_earlier_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where pip cannot install a release in full, it installs the newest earlier one, removes that
    MLflow with its parts, and installs the release alone."""
    asked: list[str] = []

    def run(command: list[Any], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(" ".join(map(str, command[5:])))
        return subprocess.CompletedProcess(command, 1 if "mlflow==9.9" in command[6:7] else 0)

    monkeypatch.setattr(subprocess, "run", run)
    test_versions.install(Path("python"), "9.9", ("--editable", "here"))
    assert asked == [
        "install mlflow==9.9 --editable here",
        "install mlflow<9.9 --editable here",
        "uninstall --yes mlflow mlflow-skinny mlflow-tracing",
        "install --no-deps mlflow==9.9",
    ]
    assert "mlflow 9.9 cannot be installed in full" in capsys.readouterr().out


def test_every_release_of_mlflow_runs_the_tests_and_one_failure_fails_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The store's and the endpoints' tests run once for each MLflow; one that fails in one of them,
    and an environment that cannot be made, are counted."""

    def environment(wandb: str, mlflow: str) -> Path:
        if wandb == "0.22.3":
            raise subprocess.CalledProcessError(1, "pip")
        return tmp_path / mlflow / "bin" / "python"

    def pytest_of(*arguments: str, tools: Path) -> Counter[str]:
        ran.append((tools.parent.name, "tests/store" in arguments))
        failed = int(ran[-1] == ("3.17.2", False))
        return Counter(passed=10, failed=failed, skipped=2)

    ran: list[tuple[str, bool]] = []
    monkeypatch.setattr(test_versions, "environment", environment)
    monkeypatch.setattr(test_versions, "check", lambda python: True)
    monkeypatch.setattr(test_versions, "pytest", pytest_of)
    assert test_versions.main([]) == 1
    assert ran == [
        (release, store) for release in ("3.1.4", "3.17.2", "3.18.0") for store in (True, False)
    ]
    # Four pairs whose end-to-end check is well, six suites.
    assert capsys.readouterr().out.splitlines()[-1] == "64 passed, 2 failed, 12 skipped"
