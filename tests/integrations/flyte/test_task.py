"""What the decorators make of a task: it stays what it was, and stays tracked."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import cloudpickle
import flyte
import pytest
from flyte.clustered import ClusteredTaskEnvironment
from flyte.extend import AsyncFunctionTaskTemplate
from flyte.models import SerializationContext

import mlflow_wandb_flyte
from mlflow_wandb_flyte import (
    Mlflow,
    mlflow_config,
    mlflow_run,
    track,
    wandb_config,
    wandb_init,
    wandb_sweep,
)
from mlflow_wandb_plugin.errors import UsageError

env = flyte.TaskEnvironment(name="tasks")


@wandb_init
@env.task
async def plain(x: int) -> int:
    """A documented task."""
    return x


@wandb_init(project="p")
@env.task(retries=2, links=(Mlflow(link="https://x"),))
def called(x: int = 1) -> int:
    return x


@wandb_init
@wandb_sweep
@env.task
def swept() -> None: ...


@wandb_sweep
@mlflow_run
@wandb_init
@env.task
def all_three() -> None: ...


def test_every_name_of_both_plugins_is_offered() -> None:
    """`__all__` is what the two plugins have, and `track`, `RunMode` and `RankScope`."""
    wandb = {
        "Wandb", "WandbSweep", "download_wandb_run_dir", "download_wandb_run_logs",
        "download_wandb_sweep_dirs", "download_wandb_sweep_logs", "get_distributed_info",
        "get_wandb_context", "get_wandb_run", "get_wandb_run_dir", "get_wandb_sweep_context",
        "get_wandb_sweep_id", "wandb_config", "wandb_init", "wandb_sweep", "wandb_sweep_config",
    }  # fmt: skip
    mlflow = {"Mlflow", "get_mlflow_context", "get_mlflow_run", "mlflow_config", "mlflow_run"}
    assert set(mlflow_wandb_flyte.__all__) == wandb | mlflow | {"track", "RunMode", "RankScope"}
    assert all(hasattr(mlflow_wandb_flyte, name) for name in mlflow_wandb_flyte.__all__)


def test_the_environments_task_is_the_decorated_one() -> None:
    """What is deployed has the links."""
    for task in (plain, called, swept, all_three):
        assert env.tasks[task.name] is task
        assert task.links
        assert isinstance(task, AsyncFunctionTaskTemplate)


def kinds(task: Any) -> list[str]:
    return [type(one).__name__ for one in task.tracked_by]


def test_decorators_stack_in_any_order() -> None:
    """Each has its options and its links, whoever stands above."""
    assert kinds(swept) == ["WandbOptions", "SweepOptions"]
    assert sorted(kinds(all_three)) == ["MlflowOptions", "SweepOptions", "WandbOptions"]
    assert [link.name for link in swept.links] == ["Weights & Biases Sweep", "Weights & Biases"]


def test_the_function_stays_the_users() -> None:
    """Called outside of Flyte it is just called; its source and cache version are its own."""
    assert called.func(5) == called(5) == 5
    assert called.func.__name__ == "called"
    assert called.source_file == __file__
    assert plain.retries.count == 0
    assert called.retries.count == 2


def copies_of(task: Any) -> dict[str, Any]:
    return {
        "override": task.override(short_name="other"),
        "override of an override": task.override(retries=3).override(short_name="x"),
        "replace": dataclasses.replace(task, short_name="other"),
        "copy": copy.copy(task),
        "deep copy": copy.deepcopy(task),
        "cloudpickle": cloudpickle.loads(cloudpickle.dumps(task)),
    }


@pytest.mark.parametrize("task", [called, swept, all_three], ids=lambda task: task.short_name)
def test_copies_of_a_task_are_tracked(task: Any) -> None:
    """Overridden, copied or pickled: the same options and links, and still a task of its class."""
    for made_by, made in copies_of(task).items():
        assert kinds(made) == kinds(task), made_by
        assert [link.name for link in made.links] == [link.name for link in task.links], made_by
        assert type(made) is type(task), made_by


def test_overridden_links_replace_the_users_and_not_ours() -> None:
    """The decorator's link stays."""
    other = called.override(links=(Mlflow(name="new", link="https://y"),))
    assert [link.name for link in other.links] == ["new", "Weights & Biases"]


def test_an_overridden_plugin_config_keeps_the_tracking() -> None:
    """Flyte rebuilds the task as another class; it is tracked all the same."""
    clustered = ClusteredTaskEnvironment(name="c", replicas=2, nproc_per_node=1)

    @clustered.task
    def other() -> None: ...

    made = plain.override(plugin_config=other.plugin_config)
    assert isinstance(made, type(other))
    assert kinds(made) == ["WandbOptions"]


def test_a_clustered_environment_is_distributed() -> None:
    """A link a node in scope worker; the group in mode new."""
    clustered = ClusteredTaskEnvironment(name="c2", replicas=3, nproc_per_node=2)

    @wandb_init(rank_scope="worker", project="p", entity="e")
    @clustered.task
    def each() -> None: ...

    assert [link.name for link in each.links] == [f"Weights & Biases Worker {i}" for i in range(3)]
    assert each.links[2].get_link("r", "", "", {}, "", "a", "").endswith("/runs/r-a-worker-2")

    @track(run_mode="new", project="p", entity="e")
    @clustered.task
    def new() -> None: ...

    assert new.links[0].get_link("r", "", "", {}, "", "a", "").endswith("/groups/r-a")


def test_container_arguments_are_the_plain_tasks() -> None:
    """The task is loaded in its container by module and name, as without us."""
    context = SerializationContext(
        version="v", project="p", domain="d", org="o", input_path="i", output_path="o",
        root_dir="/", code_bundle=None, image_cache=None,
    )  # fmt: skip
    bare = flyte.TaskEnvironment(name="tasks").task(plain.func)
    assert plain.container_args(context) == bare.container_args(context)


def test_a_sweep_needs_a_task() -> None:
    """A plain function has no sweep."""
    with pytest.raises(RuntimeError, match="only be used with Flyte tasks"):
        wandb_sweep(lambda: None)


@pytest.mark.parametrize(
    ("construct", "said"),
    [
        (lambda: track(run_mode="other"), r"track\(run_mode=…\) .*'nested'"),
        (lambda: wandb_init(run_mode="nested"), r"wandb_init\(run_mode=…\)"),
        (lambda: wandb_init(rank_scope="node"), r"wandb_init\(rank_scope=…\)"),
        (lambda: mlflow_run(run_mode="shared"), r"mlflow_run\(run_mode=…\)"),
        (lambda: wandb_config(run_mode="nested"), r"wandb_config\(run_mode=…\)"),
        (lambda: wandb_config(rank_scope="all"), r"wandb_config\(rank_scope=…\)"),
        (lambda: mlflow_config(run_mode="shared"), r"mlflow_config\(run_mode=…\)"),
        (lambda: wandb_init(reinit="finish_previous"), r"wandb_init\(reinit=…\)"),
        (lambda: wandb_init(on_backend_error="ignore"), r"wandb_init\(on_backend_error=…\)"),
        (lambda: mlflow_run(on_backend_error="ignore"), r"mlflow_run\(on_backend_error=…\)"),
        (lambda: mlflow_run(run_id="r")(wandb_init(env.task(nothing))), r"mlflow_run\(run_id=…\)"),
    ],
)
def test_what_cannot_be_honoured_is_refused(construct: Any, said: str) -> None:
    """By name, when it is constructed, and as a ValueError."""
    with pytest.raises(UsageError, match=said) as caught:
        construct()
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("construct", "said"),
    [
        (lambda: wandb_init(projct="p"), "wandb_init .*'projct': did you mean project"),
        (lambda: track(experimnt="e"), "track .*'experimnt': did you mean experiment"),
        (lambda: wandb_config(nots="n"), "wandb_config .*'nots': did you mean notes"),
        (lambda: wandb_sweep(x=1), "wandb_sweep takes no argument 'x'"),
        (lambda: mlflow_run(descripton="d"), "mlflow_run .*'descripton'"),
        (lambda: mlflow_config(descripton="d"), "mlflow_config .*'descripton'"),
    ],
)
def test_unknown_arguments_are_refused(construct: Any, said: str) -> None:
    """When it is constructed, and as a TypeError."""
    with pytest.raises(TypeError, match=said) as caught:
        construct()
    assert isinstance(caught.value, UsageError)


def nothing() -> None: ...
