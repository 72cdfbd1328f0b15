"""What Ray's callbacks are given: typing errors, Ray's own arguments, nested results."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs  # type: ignore[import-untyped]
import pytest

from mlflow_wandb_plugin.errors import UsageError
from mlflow_wandb_ray import DualLoggerCallback, DualTrainCallback, tune


class Run:
    """The part of a W&B run that the callback uses."""

    id = "x"

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def define_metric(self, *_: Any, **__: Any) -> None:
        """Take it."""

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        """Take it."""


class Trial:
    """The part of Tune's trial that the callback reads."""

    experiment_dir_name = "exp"
    latest_checkpoint_result = None

    def __init__(self, folder: Path, trial_id: str = "t0") -> None:
        self.trial_id = trial_id
        self.config = {"lr": 0.1, "left_out": 1, "opt": {"name": "adam", "left_out": 2}}
        system = pyarrow.fs.LocalFileSystem()
        self.storage = SimpleNamespace(storage_filesystem=system, experiment_fs_path=str(folder))

    def __str__(self) -> str:
        return self.trial_id


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Run, dict[str, Any]]]:
    """The runs that are begun, each with its config."""
    found: list[tuple[Run, dict[str, Any]]] = []

    def begin(_: Any, __: Any, config: dict[str, Any], ___: Any) -> Run:
        found.append((Run(), config))
        return found[-1][0]

    monkeypatch.setattr(tune, "begin", begin)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return found


@pytest.mark.parametrize("callback", [DualLoggerCallback, DualTrainCallback])
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("projekt", "did you mean project?"),
        ("api_key", "api_key_file"),
        ("save_artifact", "log_checkpoints=True"),
        ("experiment_name", "pass experiment"),
        ("nothing_like_it", "leave it out"),
    ],
)
def test_an_unknown_argument_is_refused_when_the_callback_is_made(
    callback: Any, name: str, advice: str
) -> None:
    """In the user's script: later, the experiment would run and nothing be logged."""
    with pytest.raises(UsageError) as refused:
        callback(**{name: "given"})
    assert f"{callback.__name__} takes no argument {name!r}" in str(refused.value)
    assert advice in str(refused.value)
    callback(job_type="of wandb.init")


@pytest.mark.parametrize("name", ["upload_checkpoints", "save_checkpoints", "log_checkpoints"])
def test_rays_names_for_checkpoints_are_known(name: str) -> None:
    """Those of its callback for W&B, whose `log_config` is known, too."""
    assert DualLoggerCallback(**{name: True}, log_config=True)._log_checkpoints is True
    assert DualLoggerCallback()._log_checkpoints is False


def test_nested_results_have_the_names_of_rays_own_callback(
    started: list[tuple[Run, dict[str, Any]]], tmp_path: Path
) -> None:
    """Joined with a slash; what is excluded is left out of results and config, with all below."""
    callback, trial = DualLoggerCallback(excludes=["info/b", "left_out"]), Trial(tmp_path)
    callback.setup()
    callback.log_trial_start(trial)
    callback.log_trial_result(1, trial, {
        "training_iteration": 1, "env_runners": {"episode_return_mean": 3.0}, "text": "kept",
        "info": {"a": 1, "b": {"c": 2}}, "left_out": 4, "pid": 5, "own": {"pid": 6},
    })  # fmt: skip
    callback.log_trial_end(trial)
    callback.on_experiment_end([trial])
    [(run, config)] = started
    assert run.rows == [{
        "training_iteration": 1, "env_runners/episode_return_mean": 3.0, "text": "kept",
        "info/a": 1, "own/pid": 6,
    }]  # fmt: skip
    assert config == {"lr": 0.1, "opt": {"name": "adam", "left_out": 2}}


def test_a_trial_that_has_ended_keeps_no_thread(
    started: list[tuple[Run, dict[str, Any]]], tmp_path: Path
) -> None:
    """A search may have thousands, and ends long after its first trials."""
    callback = DualLoggerCallback()
    callback.setup()
    before = set(threading.enumerate())
    for number in range(50):
        trial = Trial(tmp_path, f"t{number}")
        callback.log_trial_start(trial)
        callback.log_trial_result(1, trial, {"training_iteration": 1, "loss": 1.0})
        callback.log_trial_end(trial)
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive()
    assert [run.rows for run, _ in started] == [[{"training_iteration": 1, "loss": 1.0}]] * 50
    callback.on_experiment_end([])
