"""What a download says when it cannot be had, in upstream's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flyte", reason="flyte is not installed here")

import wandb

from mlflow_wandb_flyte import download_wandb_run_dir, download_wandb_sweep_dirs


class Refusing:
    """W&B's API, which refuses on demand."""

    default_entity = None

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, path: str) -> Any:
        raise self.error

    sweep = run


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            wandb.errors.CommError("Run not found"),
            "Failed to fetch wandb run 'team/p/r'.*not found",
        ),
        (wandb.errors.AuthenticationError("no"), "Authentication failed.*WANDB_API_KEY"),
        (ValueError("odd"), "Failed to fetch wandb run 'team/p/r': odd"),
    ],
)
def test_a_run_that_cannot_be_had_is_one_clear_error(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever W&B raises becomes a RuntimeError that names the run and what to do."""
    monkeypatch.setattr(wandb, "Api", lambda **_: Refusing(error))
    with pytest.raises(RuntimeError, match=said):
        download_wandb_run_dir("r", str(tmp_path), project="p", entity="team")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Before W&B is asked."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="Failed to create download directory"):
        download_wandb_run_dir("r", str(tmp_path / "file" / "below"), project="p", entity="team")


def test_a_sweep_needs_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entity and a project, from arguments, configuration or W&B's default."""
    monkeypatch.setattr(wandb, "Api", lambda **_: Refusing(ValueError()))
    with pytest.raises(RuntimeError, match="Cannot query sweep without entity and project"):
        download_wandb_sweep_dirs("s")
    with pytest.raises(RuntimeError, match="Failed to fetch wandb sweep 'team/p/s'"):
        download_wandb_sweep_dirs("s", project="p", entity="team")
