"""Rules for MLflow to W&B."""

from __future__ import annotations

import json
import math
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_wandb_plugin.core.redaction import Secrets
from mlflow_wandb_plugin.mapping import to_wandb as rules
from mlflow_wandb_plugin.mapping.to_mlflow import param_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-3", -3), ("0.1", 0.1), ("1e-05", 1e-05), ("1.0", 1.0), ("True", True),
        ("False", False), ("None", "None"), ("true", "true"), ("0.10", "0.10"), ("1e-5", "1e-5"),
        ("007", "007"), ("+1", "+1"), ("1_000", "1_000"), ("nan", "nan"), ("inf", "inf"),
        ("", ""), (" 1", " 1"), (str(2**53 + 1), str(2**53 + 1)), ("[1, 2]", "[1, 2]"),
    ],
)  # fmt: skip
def test_a_param_that_reads_as_a_number_is_one(text: str, value: object) -> None:
    """W&B can plot it then; whatever would read differently stays text."""
    found = rules.config_value(text)
    assert (found, type(found)) == (value, type(value))


@given(st.one_of(st.text(), st.floats().map(str), st.integers().map(str)))
def test_a_params_text_comes_back(text: str) -> None:
    """The other direction's rule turns the config value into the same text."""
    assert param_value(rules.config_value(text)) == text


def test_params_never_take_the_place_of_what_ties_the_homes() -> None:
    """Identity keys, W&B's own and ours are kept free."""
    for key in ("mlflow_run_id", "mlflow_experiment_id", "mlflow_tracking_uri", "mlflow", "_wandb"):
        assert rules.config_key(key) == f"mlflow.{key}"
    assert rules.config_key("lr") == "lr"


def test_a_batch_becomes_one_row_a_step_and_time() -> None:
    """Neighbours share a row; a key that comes twice, or another step or time, begins a new one."""
    batch = [
        ("a", 1, 1000, 0), ("b", math.nan, 1000, 0), ("a", 2, 1000, 0), ("a", 3, 1001, 0),
        ("c", math.inf, 1001, -5), ("_step", 4, 1001, -5),
    ]  # fmt: skip
    rows = list(rules.rows(batch))
    assert [(row.step, row.timestamp_ms, list(row.values)) for row in rows] == [
        (0, 1000, ["a", "b"]), (0, 1000, ["a"]), (0, 1001, ["a"]),
        (-5, 1001, ["c", "mlflow._step"]),
    ]  # fmt: skip
    document = rows[3].document()
    # As it is read: 1.001 would be 1000 ms.
    assert int(document.pop("_timestamp") * 1000) == 1001
    assert document == {"c": math.inf, "mlflow._step": 4.0, "mlflow_step": -5}
    assert list(rules.rows([])) == []


points = st.tuples(
    st.sampled_from("abc"), st.integers(-5, 5), st.integers(0, 3), st.integers(-2, 2)
)


@given(st.lists(points, max_size=30))
def test_no_point_of_a_batch_is_lost_or_made_up(batch: list[tuple[str, int, int, int]]) -> None:
    """The rows hold the batch's points, in its order."""
    found = [
        (key, int(value), row.timestamp_ms, row.step)
        for row in rules.rows(batch)
        for key, value in row.values.items()
    ]
    assert found == batch


def test_users_tags_become_labels() -> None:
    """As key:value, or the key alone; W&B's limit keeps the long ones to the config."""
    tags = {
        "team": "vision", "best": "true", "empty": "", "long": "x" * 60,
        "mlflow.user": "ann", "mlflow.wandb.owner": "o", "mlflow.note.content": "note",
    }  # fmt: skip
    assert rules.wandb_tags(tags, Secrets()) == ("best", "empty", "team:vision")
    assert rules.wandb_tags(tags, Secrets(), deleted=True)[-1] == "mlflow-deleted"
    assert set(rules.config_tags(tags, Secrets())) == {
        "team",
        "best",
        "empty",
        "long",
        "mlflow.user",
    }


def test_no_credentials_in_the_config() -> None:
    """A repository's address may hold a token."""
    tags = {"mlflow.source.git.repoURL": "https://user:secret@host/repo.git"}
    assert "secret" not in json.dumps(
        [rules.config_tags(tags, Secrets()), rules.source_settings(tags)]
    )
    assert rules.source_settings(tags) == {"git_remote_url": "https://host/repo.git"}


@pytest.mark.parametrize(
    ("path", "picture"),
    [
        ("images/dog~big+step+3+timestamp+1700+ab-c.png", ("dog/big", 3, 1700)),
        ("images/dog%step%-3%timestamp%1700%ab.png", ("dog", -3, 1700)),
        ("images/dog+step+3+timestamp+1700+ab-c+compressed.webp", None),
        ("figures/plot.PNG", ("figures/plot.PNG", None, None)),
        ("images/other.jpg", ("images/other.jpg", None, None)),
        ("table_images/t/1234.png", None),
        ("model.pkl", None),
        (".png", None),
    ],
)
def test_image_files_are_pictures(path: str, picture: tuple[object, ...] | None) -> None:
    """Step images by key, step and time; small copies and a table's own images are left out."""
    found = rules.image_name(path)
    assert (tuple(found) if found else None) == picture


def test_only_a_table_is_a_table() -> None:
    """What `log_table` writes is recognised by its shape, nested cells as JSON."""
    text = json.dumps({"columns": ["a", "b"], "data": [[1, {"type": "image"}], [None, [2]]]})
    assert rules.parse_table(text) == (["a", "b"], [[1, '{"type": "image"}'], [None, "[2]"]])
    for other in (
        "{}", "[]", "no json", '{"columns": ["a"], "data": [[1, 2]]}', '{"columns": 1, "data": []}',
        '{"columns": ["a"], "data": [[1]], "more": 1}', '{"columns": ["a"], "data": [1]}',
    ):  # fmt: skip
        assert rules.parse_table(other) is None


@given(st.text(min_size=1))
def test_artifact_names_are_legal_and_tell_names_apart(name: str) -> None:
    """A rewritten name ends in a hash of the original."""
    found = rules.artifact_name(name)
    assert 0 < len(found) <= 128
    assert set(found) <= set(string.ascii_letters + string.digits + "-_.")
    assert found == name or rules.artifact_name(name + "!") != found


def test_aliases_follow_the_registered_versions() -> None:
    """Aliases of a version that changed or is gone give way; those of users stay."""
    first = rules.Version("fraud", "1", ("champion",)).document()
    aliases = rules.aliases({"latest", "mine"}, (), [first])
    assert aliases == {"latest", "mine", "fraud-v1", "fraud-champion"}
    other = rules.Version("fraud-eu", "4", ("champion",)).document()
    aliases = rules.aliases(aliases, [first], [first, other])
    assert aliases >= {"fraud-v1", "fraud-champion", "fraud-eu-v4", "fraud-eu-champion"}
    moved = {**first, "aliases": ["best"]}
    aliases = rules.aliases(aliases, [first, other], [moved, other])
    assert aliases == {
        "latest", "mine", "fraud-v1", "fraud-best", "fraud-eu-v4", "fraud-eu-champion",
    }  # fmt: skip
    assert rules.aliases(aliases, [moved, other], [other]) == {
        "latest", "mine", "fraud-eu-v4", "fraud-eu-champion",
    }  # fmt: skip


def test_files_stay_in_their_folder() -> None:
    """A path from a user never leaves the run's files, nor meets W&B's own."""
    assert rules.file_path("a/b.txt") == "artifacts/a/b.txt"
    assert ".." not in rules.file_path("../../etc/passwd").split("/")
    assert rules.file_path("/etc/passwd").startswith("artifacts/")


def test_secrets_of_an_mlflow_run_are_not_in_its_wandb_run() -> None:
    """By their name or their form, in params and in tags."""
    token = "hf_" + "aB3" * 11
    params = {"api_key": "x1", "url": "https://me:pw@host/", "note": token, "max_tokens": "512"}
    tags = {"password": "x2", "team": "vision", "by": token}
    config = rules.run_config({"mlflow_run_id": "r"}, params, {}, Secrets())
    expected = {"api_key": "***", "url": "https://host/", "note": "***", "max_tokens": 512}
    assert {key: config[key] for key in params} == expected
    assert rules.config_tags(tags, Secrets()) == {"password": "***", "team": "vision", "by": "***"}
    assert rules.wandb_tags(tags, Secrets()) == ("by:***", "password:***", "team:vision")


def test_the_section_of_the_config() -> None:
    """It has what W&B has no other place for; what is empty takes no place, a tag that was removed
    is null."""
    told: dict[str, Any] = {
        "name": "short", "user": "me", "experiment": "e", "status": "FAILED", "start_ms": 7,
        "end_ms": None, "parent": None, "tags": {"a": "1"}, "secrets": Secrets(),
    }  # fmt: skip
    section = {
        "user": "me", "experiment": "e", "status": "FAILED", "start_time": 7,
        "lifecycle_stage": "active", "tags": {"a": "1"},
    }  # fmt: skip
    assert rules.config_section(**told) == section
    more: dict[str, Any] = {
        "deleted": True, "removed_tags": ["z", "b"], "datasets": [{"name": "d"}], "traces": 3,
        "input_models": ["m-1"], "registered_files": {"f": None}, "lost": {"points": 2},
        "journal": {"rows": 4},
    }  # fmt: skip
    assert rules.config_section(**told, **more) == section | {
        "lifecycle_stage": "deleted", "tags": {"a": "1", "b": None, "z": None},
        "datasets": [{"name": "d"}], "input_models": ["m-1"], "registered_files": {"f": None},
        "traces_not_mirrored": 3, "lost": {"points": 2}, "journal": {"rows": 4},
    }  # fmt: skip
