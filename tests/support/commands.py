"""``mlflow-wandb`` as a user calls it, and where its traces lie."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mlflow_wandb_plugin.cli import main
from mlflow_wandb_plugin.store.uris import MIRROR
from tests.support.processes import started

COMMAND = str(Path(sys.executable).parent / "mlflow-wandb")


def mlflow_wandb(
    *arguments: str | Path, env: Mapping[str, str], cwd: Path, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a child and wait for it, whatever it returns."""
    with started([COMMAND, *map(str, arguments)], env, cwd) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"no end after {timeout} s\n{out}\n{err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def main_in_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path
) -> tuple[int, str, str]:
    """Run the command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["mlflow-wandb", *map(str, arguments)])
    # The command switches the mirror off for its process, which is this one.
    monkeypatch.setenv(MIRROR, os.environ.get(MIRROR, ""))
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def wandb_folder(env: Mapping[str, str]) -> Path:
    """Where wandb keeps its runs in the environment ``env``."""
    return Path(env["WANDB_DIR"]) / "wandb"


def journals(env: Mapping[str, str]) -> list[Path]:
    """What has not been delivered yet."""
    return sorted((wandb_folder(env) / "mlflow").glob("*.journal"))
