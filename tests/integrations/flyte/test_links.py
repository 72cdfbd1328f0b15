"""Links in Flyte's UI point at where the runs will be."""

from __future__ import annotations

import dataclasses
from typing import Any

import flyte
import pytest

from mlflow_wandb_flyte import (
    Mlflow,
    Wandb,
    WandbSweep,
    mlflow_run,
    track,
    wandb_config,
    wandb_init,
    wandb_sweep,
)

PLACE = {"wandb_project": "proj", "wandb_entity": "team"}


def link(of: Any, **context: str) -> str:
    return str(
        of.get_link(
            run_name="run",
            project="p",
            domain="d",
            context=context,
            parent_action_name="a0",
            action_name="{{.actionName}}",
            pod_name="pod",
        )
    )


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)


def test_a_link_leads_to_the_run_that_the_task_will_have() -> None:
    """Auto and new: a run of its own; with a parent, auto and shared lead to the parent's."""
    own = "https://wandb.ai/team/proj/runs/run-{{.actionName}}"
    parents = "https://wandb.ai/team/proj/runs/parent"
    for mode, alone, with_parent in (
        ("auto", own, parents),
        ("new", own, own),
        ("shared", "https://wandb.ai/team/proj", parents),
    ):
        wandb = Wandb(run_mode=mode)
        assert link(wandb, **PLACE) == alone
        assert link(wandb, **PLACE, _wandb_run_id="parent") == with_parent
    assert link(Wandb()) == "https://wandb.ai"


def test_a_run_that_the_user_names_is_linked_by_its_name() -> None:
    """The decorator's id comes before the context's; odd names are quoted."""
    assert link(Wandb(id="mine"), **PLACE, wandb_id="other").endswith("/runs/mine")
    assert link(Wandb(), **PLACE, wandb_id="other").endswith("/runs/other")
    assert link(Wandb(project="a b", entity="é"), **PLACE).startswith(
        "https://wandb.ai/%C3%A9/a%20b/"
    )


def test_links_point_at_the_configured_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """The context, the link's own, the task's variables, this process's, W&B's cloud: the first
    that is given."""
    run = "/team/proj/runs/run-{{.actionName}}"
    sweeps = "/team/proj/sweeps/s"
    env = flyte.TaskEnvironment(name="hosts", env_vars={"WANDB_BASE_URL": "https://task.example"})

    @wandb_init
    @env.task
    async def hosted() -> None: ...

    (task,) = hosted.links
    assert link(task, **PLACE, wandb_host="https://ctx.example/") == f"https://ctx.example{run}"
    assert link(task, **PLACE) == f"https://task.example{run}"
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.process.example")
    assert link(Wandb(), **PLACE) == f"https://app.process.example{run}"
    assert link(WandbSweep(id="s"), **PLACE) == f"https://app.process.example{sweeps}"
    own = Wandb(host="https://own.example")
    assert link(own, **PLACE) == f"https://own.example{run}"
    assert link(own, **PLACE, wandb_host="https://ctx.example/") == f"https://ctx.example{run}"
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    assert link(Wandb(), **PLACE) == f"https://wandb.ai{run}"


def test_a_link_heeds_the_contexts_mode_unless_the_decorator_has_one() -> None:
    """A child in mode new, by its context, is not its parent's run."""
    context = {**PLACE, "_wandb_run_id": "parent", "wandb_run_mode": "new"}
    env = flyte.TaskEnvironment(name="modes")

    @wandb_init
    @env.task
    async def left_open() -> None: ...

    @wandb_init(run_mode="auto")
    @env.task
    async def said() -> None: ...

    assert link(left_open.links[0], **context).endswith("/runs/run-{{.actionName}}")
    assert link(said.links[0], **context).endswith("/runs/parent")


def test_a_childs_link_goes_where_its_parents_run_is() -> None:
    """The parent's decorator said the project: the shared run is there."""
    inherited = {"_wandb_run_id": "p", "_wandb_project": "theirs", "_wandb_entity": "them"}
    assert link(Wandb(), **PLACE, **inherited) == "https://wandb.ai/them/theirs/runs/p"


def test_a_sweeps_link_uses_its_own_project() -> None:
    """The decorator's, then the sweep's configuration, then W&B's."""
    assert link(WandbSweep(project="own", entity="me"), **PLACE) == "https://wandb.ai/me/own/sweeps"
    swept = {"wandb_sweep_project": "tuning", "_wandb_sweep_id": "s1"}
    assert link(WandbSweep(), **PLACE, **swept) == "https://wandb.ai/team/tuning/sweeps/s1"
    env = flyte.TaskEnvironment(name="sweeps")

    @wandb_sweep(project="own", entity="me")
    @env.task
    async def swept_task() -> None: ...

    assert link(swept_task.links[0], **PLACE) == "https://wandb.ai/me/own/sweeps"


def test_mlflow_links_lead_to_the_shared_run_or_the_own_experiment() -> None:
    """A task with a run of its own is not linked to its parent's."""
    context = {"_mlflow_link": "https://ml.example/#/experiments/1/runs/2"}
    assert link(Mlflow(), **context) == context["_mlflow_link"]
    assert link(Mlflow(link="https://x.example"), **context) == "https://x.example"
    assert link(Mlflow(_decorator_run_mode="new"), **context) == ""
    assert link(Mlflow(), **context, mlflow_run_mode="new") == ""
    host = {"mlflow_link_host": "https://me:secret@ml.example/", "mlflow_experiment_id": "7"}
    found = link(Mlflow(), **host)
    assert found.startswith("https://ml.example/#/experiments/7?searchFilter=attributes.run_name")
    assert "run-{{.actionName}}" in found
    assert "secret" not in found


def test_track_has_a_link_for_each_backend() -> None:
    """W&B's first, then MLflow's, which knows the host that the decorator was given."""
    env = flyte.TaskEnvironment(name="both", env_vars={"WANDB_BASE_URL": "https://w.example"})

    @track(project="p", entity="e", link_host="https://ml.example")
    @env.task
    async def both() -> None: ...

    assert [link(one) for one in both.links] == [
        "https://w.example/e/p/runs/run-{{.actionName}}",
        "https://ml.example/#/experiments",
    ]


def test_a_users_mlflow_link_learns_the_decorators_mode() -> None:
    """Nested: the link shows the parent's run, and says so."""
    env = flyte.TaskEnvironment(name="user")

    @mlflow_run(run_mode="nested")
    @env.task(links=(Mlflow(),))
    async def nested() -> None: ...

    (shown,) = nested.links
    assert shown.name == "MLflow (parent)"
    assert link(shown, _mlflow_link="https://x") == "https://x"


def test_a_config_keeps_what_upstreams_links_read() -> None:
    """The keys in the context are the upstream plugin's."""
    assert link(Wandb(), **wandb_config(project="p", entity="e", host="https://h.example")) == (
        "https://h.example/e/p/runs/run-{{.actionName}}"
    )


def test_link_classes_have_the_fields_of_the_upstream_plugins() -> None:
    """No others: what a decorator knows besides is no argument."""
    names = {of: [one.name for one in dataclasses.fields(of)] for of in (Wandb, WandbSweep, Mlflow)}
    assert names == {
        Wandb: [
            "host", "project", "entity", "run_mode", "rank_scope", "id", "name", "_is_distributed",
            "_worker_index",
        ],
        WandbSweep: ["host", "project", "entity", "id", "name"],
        Mlflow: ["name", "link", "_decorator_run_mode"],
    }  # fmt: skip
