"""The rules that map to MLflow, checked with the validators of the installed MLflow."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH as LIMIT
from mlflow.utils.validation import (
    _validate_experiment_name,
    _validate_metric_name,
    _validate_param_name,
    _validate_tag_name,
)

from mlflow_wandb_plugin.core import redaction
from mlflow_wandb_plugin.core.model import RowObjects, RunInfo
from mlflow_wandb_plugin.mapping import names, system_metrics, to_mlflow
from mlflow_wandb_plugin.mapping.documents import canonical_json
from mlflow_wandb_plugin.mapping.names import Namer, legal_name, safe_path

awkward = st.sampled_from(
    ["", ".", "..", "...", "..a", "/a", "a/", "a//b", "../x", "./a", "a/../b", "recall@5", "a\n",
     "😀", "é", "x" * 300, "/" * 260, "../" * 100, "a.", "-", " ", "\x00", "%", "a:b", "\\"]
)  # fmt: skip
texts = st.one_of(awkward, st.text(), st.text("./@_a", max_size=12))
keys = st.lists(texts, min_size=1, max_size=3).map(tuple)


def accepted(name: str) -> bool:
    """Whether MLflow accepts ``name`` as the key of metrics, params and tags."""
    try:
        _validate_metric_name(name)
        _validate_param_name(name)
        _validate_tag_name(name)
    except MlflowException:
        return False
    return len(name) <= LIMIT


# -- names --------------------------------------------------------------------------------------


@given(texts)
def test_any_text_becomes_a_name_that_mlflow_takes(text: str) -> None:
    """MLflow's validation accepts the name of every W&B key."""
    assert accepted(legal_name(text, LIMIT))


@given(texts)
def test_a_name_that_mlflow_takes_stays_as_it_is(text: str) -> None:
    """A legal name stays as it is."""
    if accepted(text) and not text.endswith("\n"):
        assert legal_name(text, LIMIT) == text
    once = legal_name(text, LIMIT)
    assert legal_name(once, LIMIT) == once


@given(st.lists(keys, max_size=12))
def test_no_two_keys_share_a_name(found: list[tuple[str, ...]]) -> None:
    """Names are unique, stable and legal, and every original key can be found."""
    namer = Namer(LIMIT)
    names = {key: namer.name(key) for key in found}
    assert len(set(names.values())) == len(names)
    assert all(accepted(name) for name in names.values())
    assert {key: namer.name(key) for key in found} == names
    again = Namer(LIMIT)
    assert {key: again.name(key) for key in found} == names
    for key, name in names.items():
        assert tuple(namer.renamed.get(name, [name])) == key or name == ".".join(key)


def test_a_name_that_looks_like_a_hashed_one_is_not_taken_twice() -> None:
    """A key that is equal to another key's name with a hash gets a name of its own."""
    first = Namer(LIMIT)
    first.name(("recall_5",))
    taken = first.name(("recall@5",))
    namer = Namer(LIMIT)
    names = [namer.name((key,)) for key in (taken, "recall_5", "recall@5")]
    assert len(set(names)) == 3


@given(st.lists(keys, max_size=8), st.lists(keys, max_size=8))
def test_names_go_on_where_an_earlier_session_stopped(
    before: list[tuple[str, ...]], after: list[tuple[str, ...]]
) -> None:
    """After a restart no key gets another key's name."""
    first = Namer(LIMIT)
    old = {key: first.name(key) for key in before}
    second = Namer(LIMIT, first.renamed, set(old.values()))
    new = {key: second.name(key) for key in after}
    for key, name in new.items():
        owners = [other for other, taken in old.items() if taken == name]
        assert all(other == key or ".".join(other) == ".".join(key) == name for other in owners)


def test_a_legal_key_keeps_its_name_against_one_that_comes_in_a_later_session() -> None:
    """After a restart ``recall@5`` does not get the name of the existing ``recall_5``."""
    later = Namer(LIMIT, {}, {"recall_5"})
    assert later.name(("recall@5",)) != "recall_5"
    assert later.name(("recall_5",)) == "recall_5"


# -- paths --------------------------------------------------------------------------------------


@given(texts)
def test_a_path_never_leaves_its_folder(text: str) -> None:
    """No part of a safe path is empty, ``.``, ``..``, too long or unprintable."""
    path = safe_path(text)
    parts = path.split("/")
    assert not PurePosixPath(path).is_absolute()
    assert not {"", ".", ".."} & set(parts)
    assert all(len(part.encode()) <= 255 for part in parts)
    assert not any(ord(character) < 32 or character in '\\:*?"<>|#%' for character in path)


@given(st.lists(texts, max_size=6, unique=True))
def test_different_paths_stay_different(found: list[str]) -> None:
    """Different paths stay different."""
    assert len({safe_path(path) for path in found}) == len(found)


@pytest.mark.parametrize("name", ["é" * 120 + "#", "😀" * 63 + "%.png", "x" * 255])
def test_a_name_as_long_as_a_file_system_takes(name: str) -> None:
    """The limit of a file name is in bytes, not characters."""
    assert all(len(part.encode()) <= 255 for part in safe_path(name).split("/"))


def test_a_file_name_that_is_no_text_can_be_sent() -> None:
    """Lone surrogates, which stand for bytes that are not UTF-8, are replaced."""
    assert safe_path("a\udcff.txt").encode()
    assert safe_path("a\udcff.txt") != safe_path("a\udcfe.txt")


# -- documents and values -----------------------------------------------------------------------

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)


@given(json_values)
def test_documents_lose_nothing(value: object) -> None:
    """Canonical JSON has the same content; 1.0 and 1 are the same number."""
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.one_of(st.integers(-9, 9), st.text())))
def test_documents_do_not_depend_on_order_or_kind_of_number(value: dict[str, object]) -> None:
    """Equal content gives equal text."""
    other = {key: float(v) if isinstance(v, int) else v for key, v in reversed(value.items())}
    assert canonical_json(value) == canonical_json(other)


def test_a_document_with_text_that_is_no_unicode_can_be_stored() -> None:
    """A lone surrogate becomes U+FFFD, as in wandb-core's own log."""
    text = canonical_json({"path": "a\udcff", "é": math.inf})
    assert json.loads(text.encode()) == {"path": "a\ufffd", "é": math.inf}


@given(st.text(st.characters()))
def test_a_text_that_every_database_can_hold(text: str) -> None:
    """NUL and lone surrogates are replaced one by one, and nothing else is."""
    kept = names.storable(text)
    kept.encode()
    assert len(kept) == len(text)
    assert all(one == two or two == "\ufffd" for one, two in zip(text, kept, strict=True))
    assert names.storable("é\U0001f600\n") == "é\U0001f600\n"
    assert names.storable("a\x00b\udcffc") == "a\ufffdb\ufffdc"


def test_params_leave_out_what_is_not_the_users() -> None:
    """W&B's own section and the identity keys are not params."""
    first = {("_wandb", "t"): 1, ("mlflow_run_id",): "x", ("lr",): 0.1, ("on",): True, ("n",): None}
    assert to_mlflow.params(RunInfo("r", "p", first_config=first)) == {
        ("lr",): "0.1", ("on",): "True", ("n",): "None",
    }  # fmt: skip


# -- summary ------------------------------------------------------------------------------------


def test_summary_numbers_that_history_lacks_become_points() -> None:
    """Summary points are at the last step, 1 ms later if they contradict history."""
    summary = {"new": 1.5, "same": 2, "other": 3, "nan": math.nan, "text": "x", "on": True,
               "m": {"min": -1}, "pic": {"_type": "image-file", "width": 4}}  # fmt: skip
    last = {("same",): 2.0, ("other",): 9.0, ("nan",): math.nan}
    info = RunInfo("r", "p", summary=summary, last=last, last_step=7, last_ms=50)
    assert to_mlflow.summary_points(info) == {
        ("new",): (1.5, 7, 50), ("other",): (3.0, 7, 51), ("m", "min"): (-1.0, 7, 50),
    }  # fmt: skip


def test_what_a_log_took_over_from_earlier_ones_is_no_news() -> None:
    """A number of the summary with which a resumed run's log began becomes no point; one that has
    another value since does."""
    carried = {("same",): 2, ("changed",): 3, ("nan",): math.nan, ("shown",): 4, ("on",): True}
    summary = {"same": 2.0, "changed": 4, "nan": math.nan, "shown": 4, "on": 1}
    last = {("shown",): 9.0}
    info = RunInfo("r", "p", summary=summary, carried=carried, last=last, last_step=7, last_ms=50)
    points = to_mlflow.summary_points(info)
    assert points == {("changed",): (4.0, 7, 50), ("on",): (1.0, 7, 50)}


def test_a_summary_number_beyond_a_double_becomes_infinity() -> None:
    """A summary integer beyond the range of floats becomes infinite."""
    info = RunInfo("r", "p", summary={"big": 10**400, "small": -(10**400)})
    points = to_mlflow.summary_points(info)
    assert [point[0] for point in points.values()] == [math.inf, -math.inf]


# -- secrets, tags, experiments -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://host/db"),
        ("postgresql://me:sec/ret@host/db", "postgresql://host/db"),
        ("postgresql://me:sec@ret@host/db", "postgresql://host/db"),
        ("https://secret@git.example/x.git", "https://git.example/x.git"),
        ("http://host:5000/a/recall@5.png", "http://host:5000/a/recall@5.png"),
        ("sqlite:///a@b/mlflow.db", "sqlite:///a@b/mlflow.db"),
        ("mysql://host/db?user=me&password=secret&x=1", "mysql://host/db?user=me&password=***&x=1"),
        ("cannot reach http://me:secret@h/ for a@b", "cannot reach http://h/ for a@b"),
    ],
)
def test_credentials_are_taken_out(uri: str, shown: str) -> None:
    """Passwords with slashes and at-signs, and those in the query, are removed."""
    assert redaction.without_credentials(uri) == shown


@given(st.text(min_size=1), st.text())
def test_experiments_have_names_that_mlflow_takes(project: str, entity: str) -> None:
    """Every project name gives a legal experiment name."""
    name = to_mlflow.experiment_name("{project}", entity, project)
    _validate_experiment_name(name)


def test_tags_tell_everything_that_is_known() -> None:
    """Each W&B tag is a tag, and one more lists them; unknown facts are left out."""
    info = RunInfo(
        "r", "p", tags=("a", "b c"), group="g", state="failed", exit_code=3,
        facts={"user": "me", "git_remote": "https://token@h/x.git", "args": ["--lr", "1"]},
    )  # fmt: skip
    tags = to_mlflow.run_tags(info)
    assert tags == {
        "mlflow.user": "me", "mlflow.source.git.repoURL": "https://h/x.git",
        "run_group": "g", "wandb.state": "failed", "wandb.exit_code": "3",
        "wandb.tags": '["a", "b c"]',
        "wandb.args": '["--lr", "1"]',
    }  # fmt: skip


def test_changed_config_is_counted() -> None:
    """A tag has the number of config values that changed."""
    first = {("a",): 1, ("b",): 2, ("c",): 3, ("_wandb",): 1}
    info = RunInfo("r", "p", first_config=first, config={"a": 1, "b": 5})
    assert to_mlflow.changed_params(info) == 2
    assert to_mlflow.run_tags(info)["mlflow.wandb.config_changed"] == "2"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("system.cpu", 5.0, ("system/cpu_utilization_percentage", 5.0)),
        ("network.sent", 3e6, ("system/network_transmit_megabytes", 3.0)),
        ("gpu.11.memoryAllocatedBytes", 2e6, ("system/gpu_11_memory_usage_megabytes", 2.0)),
        ("gpu.0.temp", 50.0, ("system/gpu_0_temperature_celsius", 50.0)),
        ("tpu.x", 1.0, ("system/tpu.x", 1.0)),
    ],
)
def test_system_metrics(key: str, value: float, expected: tuple[str, float]) -> None:
    """System metrics have MLflow's names and units if it has them, else W&B's names."""
    assert system_metrics.system_metric(key, value) == expected


def test_a_value_that_only_lost_odd_characters_has_not_changed() -> None:
    """Lone surrogates that wandb-core replaced do not count as changes."""
    info = RunInfo("r", "p", first_config={("k",): "a\udcffb"}, config={"k": "a\ufffdb"})
    assert to_mlflow.changed_params(info) == 0
    assert to_mlflow.changed_params(replace(info, config={"k": "c"})) == 1


# -- integers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "accepted_as_step"),
    [(0, True), (-7.0, True), (2**63 - 1, True), (-(2**63), True), (-(2.0**63), True),
     (2**63, False), (2.0**63, False), (-(2**63) - 1, False), (10**400, False), (1.5, False),
     (math.nan, False), (math.inf, False), (-math.inf, False)],
)  # fmt: skip
def test_a_step_is_an_integer_of_64_bits(value: float, accepted_as_step: bool) -> None:
    """Exactly the integers that a database column of 64 bits holds are steps."""
    assert to_mlflow.is_step(value) is accepted_as_step


def test_tags_of_mlflows_calls_are_mlflows_tags_again() -> None:
    """And no W&B tags beside them; a config chooses no tag of MLflow's or of ours."""
    section = {
        "active": True,
        "tags": {"team": "vision", "done": "true", "mlflow.user": "x", "wandb.run_id": "y", "n": 1},
    }
    info = RunInfo("r", "p", config={"mlflow_calls": section}, tags=("team:vision", "done", "own"))
    tags = to_mlflow.run_tags(info)
    assert {key: tags.get(key) for key in ("team", "done", "mlflow.user", "wandb.run_id", "n")} == {
        "team": "vision", "done": "true", "mlflow.user": None, "wandb.run_id": None, "n": None,
    }  # fmt: skip
    assert tags["wandb.tags"] == '["own"]'
    for config in ({}, {"mlflow_calls": "text"}, {"mlflow_calls": {"tags": []}}):
        assert to_mlflow.tags_of_calls(RunInfo("r", "p", config=config)) == {}


def test_a_row_tells_which_points_mlflows_calls_had_first() -> None:
    """Step and time by key; what anybody else may have written there is no place, and no error."""
    key = ("mlflow_points",)
    row = RowObjects(4, 1000, {("text",): "x", key: '{"loss": [70, 900], "a.b": [2, 901]}'})
    rest, places = to_mlflow.places_of_calls(row)
    assert rest == RowObjects(4, 1000, {("text",): "x"})
    assert places == {"loss": (70, 900), "a.b": (2, 901)}
    for text in ("{", "[]", '{"a": 1}', '{"a": [1]}', '{"a": ["x", 1]}', '{"a": [1e400, 1]}',
                 f'{{"a": [{2**63}, 1]}}', '{"a": null}'):  # fmt: skip
        assert to_mlflow.places_of_calls(replace(row, values={key: text}))[1] == {}
    assert to_mlflow.places_of_calls(rest) == (rest, {})
