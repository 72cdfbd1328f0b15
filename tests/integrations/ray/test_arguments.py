"""Arguments that cannot be taken, and what a callback keeps of trials that have ended."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs  # type: ignore[import-untyped]
import pytest
from ray.air.integrations import mlflow as rays_mlflow
from ray.air.integrations import wandb as rays_wandb

from mlflow_wandb_ray import (
    DualLoggerCallback,
    DualTrainCallback,
    MLflowLoggerCallback,
    WandbLoggerCallback,
    setup_dual,
    setup_mlflow,
    setup_wandb,
    tune,
    worker,
)


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
        self.config = {"lr": 0.1}
        self.local_path = str(folder)
        system = pyarrow.fs.LocalFileSystem()
        self.storage = SimpleNamespace(storage_filesystem=system, experiment_fs_path=str(folder))

    def __str__(self) -> str:
        return self.trial_id


@pytest.mark.parametrize("named", [DualLoggerCallback, DualTrainCallback, setup_dual])
@pytest.mark.parametrize(
    ("argument", "advice"), [("projekt", "did you mean project?"), ("nothing_like_it", "leave it")]
)
def test_an_unknown_argument_is_a_type_error(named: Any, argument: str, advice: str) -> None:
    """In the user's script: later, the experiment would run and nothing be logged."""
    with pytest.raises(TypeError) as refused:
        named(**{argument: "given"})
    assert f"{named.__name__} takes no argument {argument!r}" in str(refused.value)
    assert advice in str(refused.value)


@pytest.mark.parametrize("argument", ["api_key", "tracking_token"])
def test_a_key_that_ray_would_send_to_another_process_is_refused(argument: str) -> None:
    """The controller is another process than the script; the advice names a file or variable."""
    with pytest.raises(TypeError, match=r"set (WANDB_API_KEY|MLFLOW_TRACKING_TOKEN)"):
        DualTrainCallback(**{argument: "secret"})


def parameters(function: Any) -> list[tuple[str, Any]]:
    import inspect

    return [
        (parameter.name, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]


@pytest.mark.parametrize(
    ("ours", "rays"),
    [
        (WandbLoggerCallback, rays_wandb.WandbLoggerCallback),
        (setup_wandb, rays_wandb.setup_wandb),
        (setup_mlflow, rays_mlflow.setup_mlflow),
    ],
)
def test_rays_own_arguments_come_first_with_their_defaults(ours: Any, rays: Any) -> None:
    """So that calls by position and by name mean the same after the import has changed."""
    wanted = parameters(rays)
    assert parameters(ours)[: len(wanted)] == wanted


def test_the_mlflow_callback_has_rays_own_arguments_and_defaults() -> None:
    """The first by position, the others by name."""
    first, *others = parameters(rays_mlflow.MLflowLoggerCallback)
    assert parameters(MLflowLoggerCallback) == [first]
    assert set(others) <= set(parameters(DualLoggerCallback))


def test_no_project_is_a_value_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with Ray's own callback, before the first trial."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_PROJECT", "WANDB_PROJECT_NAME", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="pass project or experiment_name"):
        DualLoggerCallback().setup()


def test_a_trial_that_has_ended_keeps_no_thread_and_no_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A search may have thousands, and ends long after its first trials."""
    begun: list[weakref.ref[Run]] = []
    rows: list[Any] = []

    def begin(*_: Any, **__: Any) -> Run:
        run = Run()
        rows.append(run.rows)
        begun.append(weakref.ref(run))
        return run

    monkeypatch.setattr(tune, "begin", begin)
    monkeypatch.setenv("WANDB_MODE", "offline")
    callback = DualLoggerCallback("project")
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
    assert rows == [[{"training_iteration": 1, "loss": 1.0}]] * 50
    gc.collect()
    assert [run() for run in begun if run() is not None] == []
    callback.on_experiment_end([])
    kept = [callback._threads, callback._ending, callback._configs, callback._saved]
    assert [len(of_trials) for of_trials in kept] == [0, 0, 0, 0]


def test_ranks_other_than_zero_get_what_does_nothing(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str]
) -> None:
    """A disabled run, and Ray's module without effects; MLflow and W&B are not asked."""
    monkeypatch.setattr(worker._Session, "current", lambda: worker._Session(rank=1, ranks=2))
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    run = setup_wandb(project="p")
    assert run.disabled
    run.finish()
    assert setup_mlflow({}).sklearn.save_model(None, "folder") is None
