"""Plugins: ours and others' are loaded alike, and a bad one does not take the rest with it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mlflow_wandb_plugin import plugins
from mlflow_wandb_plugin.core.protocols import TargetOptions
from mlflow_wandb_plugin.errors import PluginError, UsageError
from mlflow_wandb_plugin.hookspecs import hookimpl
from mlflow_wandb_plugin.sources.wandb_local.source import WandbDir
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes modules with given functions look like installed plugins."""

    def with_modules(**modules: dict[str, object] | str) -> None:
        entries = []
        for name, content in modules.items():
            if isinstance(content, dict):
                module = types.ModuleType(f"fake_{name}")
                vars(module).update(content)
                monkeypatch.setitem(sys.modules, module.__name__, module)
                content = module.__name__
            entries.append(EntryPoint(name, content, plugins.GROUP))
        monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
        plugins.manager.cache_clear()

    yield with_modules
    plugins.manager.cache_clear()


def test_folders_and_tracking_uris_are_known(
    tmp_path: Path, fresh_store: str, install: Install
) -> None:
    """What comes with the package goes through the same hooks."""
    install()
    assert isinstance(plugins.open_source(str(tmp_path)), WandbDir)
    assert isinstance(plugins.open_source(f"file://{tmp_path}"), WandbDir)
    assert isinstance(plugins.open_target(fresh_store), MlflowTarget)


@pytest.mark.parametrize("uri", ["nowhere://x", "/no/such/folder"])
def test_what_nobody_knows_is_the_users_error(uri: str, install: Install) -> None:
    """The message says what a source may be."""
    install()
    with pytest.raises(UsageError, match="is not a source: pass"):
        plugins.open_source(uri)


def test_another_plugin_may_open_a_uri(install: Install) -> None:
    """Its answer is taken; None leaves the URI to others."""
    found = object()

    @hookimpl
    def open_source(uri: str) -> object:
        return found if uri == "mine:x" else None

    @hookimpl
    def open_target(uri: str, options: TargetOptions) -> object:
        return found if uri == "mine:y" else None

    install(mine={"open_source": open_source, "open_target": open_target})
    assert plugins.open_source("mine:x") is found
    assert plugins.open_target("mine:y") is found


def test_a_hook_that_does_not_exist_fails_loudly(install: Install) -> None:
    """A misspelt hook would otherwise never be called."""

    @hookimpl
    def open_sauce(uri: str) -> object:
        return None

    install(bad={"open_sauce": open_sauce})
    with pytest.raises(PluginError, match="open_sauce"):
        plugins.manager()


def test_a_plugin_whose_third_party_is_missing_is_left_out(install: Install) -> None:
    """Flyte is not installed: that is no warning and no error."""
    install(absent="a_package_that_nobody_has:plugin")
    plugins.manager()


def test_a_plugin_of_ours_that_is_missing_is_a_warning(install: Install) -> None:
    """A broken installation should be seen."""
    install(broken="mlflow_wandb_plugin.no_such_room")
    with pytest.warns(UserWarning, match="plugin broken cannot be loaded"):
        plugins.manager()


def test_two_of_one_name_are_loaded_once(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout beside an installation offers the same entry point twice."""
    module = types.ModuleType("fake_twice")
    monkeypatch.setitem(sys.modules, "fake_twice", module)
    entries = [EntryPoint("twice", "fake_twice", plugins.GROUP)] * 2
    install()
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    assert plugins.manager().get_plugin("twice") is module


def test_an_engine_is_offered_by_name(install: Install) -> None:
    """A plugin gives its own, for the cluster at an address; a name that nobody knows is said."""
    given: list[str] = []

    @hookimpl
    def open_engine(name: str, address: str) -> object | None:
        given.append(address)
        return f"engine {name}" if name == "mine" else None

    install(offers={"open_engine": open_engine})
    assert plugins.open_engine("mine", "host:1") == "engine mine"
    assert given == ["host:1"]
    with pytest.raises(UsageError, match="there is no engine other"):
        plugins.open_engine("other")
