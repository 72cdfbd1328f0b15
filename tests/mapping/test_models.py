"""Logged models and their registered versions."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlflow_wandb_plugin.mapping.models import DELETED, MOST_COPIES, Model, model_of_version


@dataclass
class Version:
    """A registered version, as MLflow's entity has it."""

    source: str | None = None
    model_id: str | None = None


def test_the_model_of_a_version() -> None:
    """Its id counts, then the one in its source, then that of the version it was copied from."""
    versions = {
        ("net", "1"): Version("models:/m-0a1"),
        ("net", "2"): Version("models:/net/1"),
        ("net", "3"): Version("models:/net/2", "m-fff"),
        ("loop", "1"): Version("models:/loop/1"),
    }
    asked: list[tuple[str, str]] = []

    def find(name: str, version: str) -> Version:
        asked.append((name, version))
        return versions[name, version]

    assert model_of_version(versions["net", "1"], find) == "m-0a1"
    assert model_of_version(versions["net", "3"], find) == "m-fff"
    assert model_of_version(Version("file:///models/net"), find) is None
    assert model_of_version(Version(), find) is None
    assert asked == []
    assert model_of_version(versions["net", "2"], find) == "m-0a1"
    assert asked == [("net", "1")]


def test_versions_that_are_copies_of_themselves_end() -> None:
    """A server's answers may name each other: the search stops."""
    asked: list[str] = []

    def find(name: str, version: str) -> Version:
        asked.append(name)
        return Version("models:/loop/1")

    assert model_of_version(Version("models:/loop/1"), find) is None
    assert len(asked) == MOST_COPIES


@pytest.mark.parametrize(
    ("status", "finished"),
    [("PENDING", False), ("", False), ("READY", True), ("FAILED", True), (DELETED, True)],
)
def test_the_status_of_a_model_says_whether_its_files_still_change(
    status: str, finished: bool
) -> None:
    """Of one that is only known as registered, no files are expected."""
    assert Model("m-1", status=status, known=True).finished is finished
    assert Model("m-1", status=status).finished
