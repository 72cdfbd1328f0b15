"""The state of a run, from the operations of its journal."""

from __future__ import annotations

from mlflow_wandb_plugin.mapping.journal_state import JournalModels, JournalState


def test_an_update_changes_what_it_names() -> None:
    """An operation without a name, a status or a time leaves the run's as they were."""
    state = JournalState()
    state.apply({"op": "create", "name": "first", "user": "me", "start_time": 7})
    assert (state.name, state.user, state.start_ms, state.status) == ("first", "me", 7, "RUNNING")
    state.apply({"op": "update", "status": "FAILED", "end_time": 99})
    assert (state.name, state.status, state.end_ms) == ("first", "FAILED", 99)
    state.apply({"op": "update", "name": "second"})
    assert (state.name, state.status, state.end_ms) == ("second", "FAILED", 99)


def test_what_is_lost_is_counted_by_kind() -> None:
    """A loss of no kind is one of something; traces are counted by themselves."""
    state = JournalState()
    for op in ({"what": "points", "count": 3}, {"what": "points"}, {}):
        state.apply({"op": "lost", **op})
    state.apply({"op": "trace"})
    state.apply({"op": "trace", "count": 4})
    assert state.losses == {
        "points": 4, "something": 1, "traces (W&B has no place for them)": 5,
    }  # fmt: skip


def test_a_model_is_put_together_from_its_operations() -> None:
    """Later ones complete or replace what earlier ones said."""
    state, models = JournalState(), JournalModels(dict)
    for op in (
        {"op": "model", "id": "m-1", "name": "net", "type": "torch", "status": "PENDING"},
        {"op": "model", "id": "m-1", "params": {"depth": "3"}, "tags": {"a": "b"}},
        {"op": "outputs", "models": [["m-1", 5], ["m-1", 5], ["m-1", 6]]},
        {"op": "update", "status": "FINISHED"},
        {"op": "model", "id": "m-1", "status": "READY"},
    ):
        models.apply(op, state)
    (model,) = models.all
    assert (model.model_id, model.name, model.kind) == ("m-1", "net", "torch")
    assert (model.status, model.finished, model.known) == ("READY", True, True)
    assert (model.params, model.tags, model.steps) == ({"depth": "3"}, {"a": "b"}, [5, 6])


def test_models_that_a_run_has_read_are_in_its_section_once() -> None:
    """In the order in which they came, with other operations that name no models."""
    state = JournalState()
    for models in (["m-2", "m-1"], ["m-1", "m-3"]):
        state.apply({"op": "inputs", "models": models})
    state.apply({"op": "inputs"})
    assert state.section("an experiment", {})["input_models"] == ["m-2", "m-1", "m-3"]


def test_a_run_without_a_name_has_none_in_wandb() -> None:
    """Its project and id are the journal's; a name that an operation gives is the run's."""
    state = JournalState()
    header = {"mlflow_run_id": "r1", "project": "p"}
    info = state.info(header, {})
    assert (info.name, info.project, info.run_id) == ("", "p", "r1")
    state.apply({"op": "update", "name": "fine"})
    assert state.info(header, {}).name == "fine"
