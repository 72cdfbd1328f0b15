"""What ties two homes together: tags, the verdict on a run, positions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_wandb_plugin.core import identity
from mlflow_wandb_plugin.core.identity import SERVER, TO_THE_END, Twin, read_numbers, write_numbers
from mlflow_wandb_plugin.core.model import RunInfo


def twin(**fields: Any) -> Twin:
    known: dict[str, Any] = {
        "run_id": "m", "experiment_id": "1", "origin": "backfill", "state": "complete",
        "position": {"one": TO_THE_END}, "rows": {"one": 5},
    }  # fmt: skip
    return Twin(**(known | fields))


RUN = RunInfo("r", "p", entity="e", segments=("one",))
ON_SERVER = RunInfo("r", "p", segments=(SERVER,), rows={SERVER: 5})


@pytest.mark.parametrize(
    ("run", "found", "verdict"),
    [
        (RUN, None, "new"),
        (RUN, twin(), "existing"),
        (RUN, twin(origin="dual"), "dual-written"),
        (RUN, twin(state="live", origin="dual"), "partial"),
        (RUN, twin(state="partial"), "partial"),
        (RUN, twin(position={"one": 77}), "partial"),
        (RUN, twin(position={}), "partial"),
        (RunInfo("r", "p", segments=("one", "two")), twin(origin="dual"), "partial"),
        (ON_SERVER, twin(origin="dual"), "dual-written"),
        (ON_SERVER, twin(origin="dual", rows={"one": 3, "two": 1}), "partial"),
        (ON_SERVER, twin(origin="dual", rows={"one": 3, "two": 2}), "dual-written"),
        (RUN, twin(foreign=True, origin="", state=""), "foreign"),
        (RUN, twin(origin="mirror", state="", adopted=True), "dual-written"),
    ],
)  # fmt: skip
def test_verdicts(run: RunInfo, found: Twin | None, verdict: str) -> None:
    """Only a twin that has every log of the run, or as many rows as the server, is complete."""
    assert identity.verdict(run, found) == verdict


@pytest.mark.parametrize(
    ("tags", "same"),
    [
        ({"wandb.run_id": "r", "wandb.project": "p", "wandb.entity": "e"}, True),
        ({"wandb.run_id": "r", "wandb.project": "p"}, True),
        ({"wandb.run_id": "r"}, True),
        ({"wandb.run_id": "r", "wandb.project": "other"}, False),
        ({"wandb.run_id": "r", "wandb.project": "p", "wandb.entity": "other"}, False),
        ({"wandb.run_id": "x", "wandb.project": "p"}, False),
        ({}, False),
    ],
)
def test_which_tags_name_a_run(tags: dict[str, str], same: bool) -> None:
    """Id and project decide; an offline run does not know its entity."""
    assert identity.same_run(RUN, tags) is same


@given(st.dictionaries(st.text(min_size=1), st.integers(-1, 2**62), max_size=5))
def test_positions_read_back_as_written(position: dict[str, int]) -> None:
    """The tag holds every log's position."""
    tags = {identity.POSITION: write_numbers(position, 8000)}
    assert read_numbers(tags, identity.POSITION) == position


def test_a_position_that_grows_too_long_loses_the_oldest_logs() -> None:
    """What no longer fits is read again: slower, never wrong."""
    position = {f"segment-{number}": number for number in range(1000)}
    text = write_numbers(position, 500)
    assert len(text) <= 500
    kept = json.loads(text)
    assert list(kept.items()) == list(position.items())[-len(kept) :]


@pytest.mark.parametrize("text", ["", "x", "[1]", "null", '{"a": "b"}', '{"a": null}'])
def test_a_position_that_cannot_be_read_means_nothing_yet(text: str) -> None:
    """Somebody may have edited the tag: everything is sent again, which is allowed."""
    assert read_numbers({identity.POSITION: text}, identity.POSITION) == {}


def test_identity_tags_of_a_run() -> None:
    """A run is found by these, wherever it came from; an unknown entity is no tag."""
    assert identity.identity_tags(RUN, "dual", "7") == {
        "wandb.run_id": "r", "wandb.project": "p", "wandb.entity": "e",
        "mlflow.wandb.origin": "dual", "mlflow.wandb.state": "live",
        "mlflow.wandb.mapping": "7",
    }  # fmt: skip
    assert identity.ENTITY not in identity.identity_tags(RunInfo("r", "p"), "dual", "7")
    stepped = RunInfo("r", "p", config={"mlflow_step_metric": "epoch"})
    assert identity.identity_tags(stepped, "dual", "7")[identity.STEP_METRIC] == "epoch"


def test_former_names_are_read_as_the_present_ones() -> None:
    """Where a run has both, as one that was killed between them, the present one counts."""
    tags = {
        "wandb.sync.state": "complete", "mlflow.wandb.state": "live", "wandb.sync.rows": "{}",
        "wandb.name": "n", "wandb.group": "g", "wandb.run_id": "r", "mine": "1",
    }  # fmt: skip
    assert identity.present_tags(tags) == {
        "mlflow.wandb.state": "live", "mlflow.wandb.rows": "{}", "mlflow.wandb.name": "n",
        "run_group": "g", "wandb.run_id": "r", "mine": "1",
    }  # fmt: skip
    assert tags["wandb.sync.rows"] == "{}"


def test_former_names_are_known() -> None:
    """Those of bookkeeping, and what was there twice; nothing of the user's."""
    kept = ["wandb.tags", "wandb.run_id", "run_group", "mlflow.wandb.state", "mine", "wandb.sweep"]
    former = ["wandb.name", "wandb.run_path", "wandb.sync.state", "wandb.tag.a b"]
    assert identity.former_tags([*kept, *former]) == former
    assert identity.all_names(identity.STATE) == ("mlflow.wandb.state", "wandb.sync.state")
    assert identity.all_names(identity.RUN_ID) == ("wandb.run_id",)


def test_config_keys_hold_no_password() -> None:
    """They are written into the W&B run, which others can read."""
    keys = identity.config_keys("m", "1", "http://me:secret@host")
    assert keys == {
        "mlflow_run_id": "m", "mlflow_experiment_id": "1", "mlflow_tracking_uri": "http://host",
    }  # fmt: skip


def test_a_complete_run_stands_at_the_end_of_its_logs_but_where_it_was_in_a_servers() -> None:
    """A server's log goes on when the run is resumed; a journal's place is no longer needed."""
    position = {"one": 5, "journal:one": 7, "journal:other": 8}
    assert identity.ended(position, ["one"]) == {"one": TO_THE_END, "journal:other": 8}
    assert identity.ended({"server": 9}, ["server"]) == {"server": 9}


def test_each_former_name_has_its_present_one() -> None:
    """Tags of every kind that version 4 wrote are found: runs carried then are carried on."""
    assert identity.FORMER_NAMES == {
        "wandb.sync.origin": "mlflow.wandb.origin",
        "wandb.sync.state": "mlflow.wandb.state",
        "wandb.sync.position": "mlflow.wandb.position",
        "wandb.sync.rows": "mlflow.wandb.rows",
        "wandb.sync.claim": "mlflow.wandb.claim",
        "wandb.sync.experiment": "mlflow.wandb.experiment",
        "wandb.parent_of_group": "mlflow.wandb.parent_of_group",
        "wandb.sync.mapping": "mlflow.wandb.mapping",
        "wandb.sync.restored": "mlflow.wandb.restored",
        "wandb.model_id": "mlflow.wandb.model_id",
        "wandb.sync.parent": "mlflow.wandb.parent",
        "wandb.sync.step_metric": "mlflow.wandb.step_metric",
        "wandb.sync.losses": "mlflow.wandb.losses",
        "wandb.sync.rewrites": "mlflow.wandb.rewrites",
        "wandb.sync.adopted": "mlflow.wandb.adopted",
        "wandb.sync.renamed": "mlflow.wandb.renamed",
        "wandb.sync.selection": "mlflow.wandb.selection",
        "wandb.sync.owner": "mlflow.wandb.owner",
        "wandb.name": "mlflow.wandb.name",
        "wandb.config.changed": "mlflow.wandb.config_changed",
        "wandb.group": "run_group",
    }


def test_rows_of_more_logs_are_added_and_a_servers_count_replaces_them() -> None:
    """The server has joined the logs: its count includes theirs."""
    assert identity.joined_rows({"one": 3}, {"two": 2}) == {"one": 3, "two": 2}
    assert identity.joined_rows({"one": 3}, {"one": 4}) == {"one": 4}
    assert identity.joined_rows({"one": 3}, {SERVER: 9}) == {SERVER: 9}
    assert identity.total_rows({"one": 3, "two": 2}) == 5
    assert identity.total_rows({"one": 3, SERVER: 9}) == 9
    assert identity.total_rows({}) == 0


def test_a_selection_is_kept_as_text_while_a_tag_can_hold_it() -> None:
    """Up to 1000 characters, that is; a digest of 64 hexadecimal digits stands for a longer one,
    whatever characters it has."""
    assert identity.shortened_selection("a" * 1000) == "a" * 1000
    # sha256 of "a" * 1001, and of "?" * 1001: a lone surrogate is no UTF-8.
    assert identity.shortened_selection("a" * 1001) == (
        "sha256:bb0381c13e0817201355e7d700b7623f0e985287add78712a11407c9f754efc8"
    )
    assert identity.shortened_selection("\ud800" * 1001) == (
        "sha256:f20e59fc95b5a5beb6efba9208a48aaa8af26f6b159e2acac15b7c6b3eaabe3c"
    )


@pytest.mark.parametrize(
    ("tags", "beside"),
    [
        ({"run_id": "r", "project": "p", "entity": "e"}, True),
        ({"run_id": "r", "project": "p"}, True),
        ({"run_id": "r", "project": "p", "entity": "other"}, False),
        ({"run_id": "x", "project": "p", "entity": "e"}, False),
        ({"run_id": "r", "project": "x", "entity": "e"}, False),
        ({"entity": "e"}, False),
        ({}, False),
    ],
)
def test_which_tags_name_a_run_beside(tags: dict[str, str], beside: bool) -> None:
    """Id and project both have to be the run's; an entity only where both sides know it."""
    assert identity.is_beside(RUN, {f"wandb.beside.{key}": tags[key] for key in tags}) is beside


def test_a_run_beside_without_an_entity_of_its_own() -> None:
    """An offline W&B run does not know its entity: any is taken for it."""
    tags = {f"wandb.beside.{key}": key[0] for key in ("run_id", "project", "entity")}
    assert identity.is_beside(RunInfo("r", "p"), tags)


@pytest.mark.parametrize(
    ("of_source", "asked", "selection"),
    [
        ("", "", ""),
        ("", "metrics a*", "metrics a*"),
        ("metrics a*", "", "metrics a*"),
        ("metrics a*", "metrics a*", "metrics a*"),
        ("metrics a*", "metrics b*", "metrics b* of metrics a*"),
    ],
)
def test_the_selection_of_a_source_that_lacks_something_itself(
    of_source: str, asked: str, selection: str
) -> None:
    """A run is carried with both selections; one that was made twice is named once."""
    info = RunInfo("r", "p", selection=of_source)
    assert identity.selection_of(info, asked) == selection


def test_which_tags_only_this_package_sets() -> None:
    """A W&B config chooses other tags, also those of MLflow."""
    assert identity.is_of_package("wandb.run_id")
    assert identity.is_of_package("mlflow.wandb.state")
    assert not identity.is_of_package("mlflow.note.content")
    assert not identity.is_of_package("wandb_run_id")
    assert not identity.is_of_package("mine")


@pytest.mark.parametrize(
    ("config", "key"),
    [({"mlflow_step_metric": "epoch"}, "epoch"), ({}, ""), ({"mlflow_step_metric": 7}, "")],
)
def test_the_metric_of_steps_is_a_text(config: dict[str, Any], key: str) -> None:
    """Whatever else a config has there stands for W&B's own steps."""
    assert identity.step_metric(RunInfo("r", "p", config=config)) == key
