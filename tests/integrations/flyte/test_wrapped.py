"""What the integration wraps has the shape that it knows, in the versions that are installed here.

A new wandb, MLflow or Flyte of another shape fails here, by name; docs/flyte.md lists the wrappers.
"""

from __future__ import annotations

import inspect

import flyte
import mlflow  # noqa: F401
import wandb
from flyte._context import Context, internal_ctx
from flyte.extend import AsyncFunctionTaskTemplate
from flyte.models import TaskContext
from mlflow.tracking import fluent
from wandb.sdk.lib import module

from mlflow_wandb_flyte.current_run import RUN_ATTRIBUTES


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_wandbs_current_run_is_kept_in_the_attributes_that_are_replaced() -> None:
    """`wandb.run` and what belongs to it: `set_global` sets no other attribute of the module."""
    assert set(RUN_ATTRIBUTES) == {
        "alert", "config", "define_metric", "link_model", "log", "log_artifact", "log_model",
        "mark_preempting", "save", "summary", "unwatch", "use_artifact", "use_model", "watch",
    }  # fmt: skip
    assert parameters(module.unset_globals) == []
    # A run has its summary only once it is started.
    assert all(hasattr(wandb.Run, name) for name in set(RUN_ATTRIBUTES) - {"summary"})


def test_wandb_agent_is_a_function_of_the_module() -> None:
    """It is wrapped so that agents in one process take turns."""
    assert parameters(wandb.agent)[:4] == ["sweep_id", "function", "entity", "project"]


def test_mlflows_active_runs_are_a_stack_with_get_and_set() -> None:
    """`fluent._active_run_stack` of `ThreadLocalVariable`, whose value is a list."""
    stack = fluent._active_run_stack
    assert isinstance(stack.get(), list)
    assert callable(stack.set)
    assert callable(stack.get_all_thread_values)
    assert parameters(fluent.ActiveRun.__init__) == ["self", "run"]


def test_a_flyte_task_is_executed_by_its_class() -> None:
    """`execute` calls `func`; `override` makes a copy of a dataclass, which has `links`."""
    assert inspect.iscoroutinefunction(AsyncFunctionTaskTemplate.execute)
    assert parameters(AsyncFunctionTaskTemplate.execute) == ["self", "args", "kwargs"]
    assert {"func", "links", "plugin_config"} <= set(parameters(AsyncFunctionTaskTemplate))
    assert "links" in parameters(AsyncFunctionTaskTemplate.override)


def test_flytes_context_is_replaced_as_a_whole() -> None:
    """`custom_context` and `data` of the task's context, which children and traces get."""
    assert isinstance(internal_ctx(), Context)
    assert parameters(Context.replace_task_context) == ["self", "tctx"]
    assert {"custom_context", "data", "action", "mode"} <= set(parameters(TaskContext))
    assert callable(flyte.custom_context)
