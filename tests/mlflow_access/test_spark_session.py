"""MLflow's search for a Spark session, which is left out where there can be none."""

from __future__ import annotations

import builtins
import sys
import types
from typing import Any

import mlflow
import pytest
from mlflow.tracking._model_registry import utils

from mlflow_wandb_plugin.mlflow_access import spark_session


@pytest.fixture(autouse=True)
def own_search(monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's own function, whatever other tests have put in its place."""
    found = getattr(utils, spark_session.NAME)
    search = getattr(found, "__wrapped__", found)
    monkeypatch.setattr(utils, spark_session.NAME, search)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    return search


def imports_of_pyspark(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a client of MLflow tries to import of pyspark."""
    tried: list[str] = []
    original = builtins.__import__

    def spy(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyspark"):
            tried.append(name)
        return original(name, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", spy)
        mlflow.MlflowClient("http://127.0.0.1:9")
    return tried


def test_a_client_does_not_look_for_pyspark(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own client does, which is what the change saves."""
    assert imports_of_pyspark(monkeypatch)
    spark_session.ask_spark_only_where_it_is()
    assert imports_of_pyspark(monkeypatch) == []


def test_the_registry_that_a_session_names_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before, in a process that has imported pyspark."""
    spark_session.ask_spark_only_where_it_is()
    session = types.SimpleNamespace(conf={"spark.mlflow.modelRegistryUri": "sqlite:///other.db"})
    sql: Any = types.ModuleType("pyspark.sql")
    sql.SparkSession = types.SimpleNamespace(getActiveSession=lambda: session)
    errors: Any = types.ModuleType("pyspark.sql.utils")
    errors.AnalysisException = KeyError
    for name, module in {
        "pyspark": types.ModuleType("pyspark"), "pyspark.sql": sql, "pyspark.sql.utils": errors,
    }.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    assert mlflow.MlflowClient("http://127.0.0.1:9")._registry_uri == "sqlite:///other.db"


def test_it_is_put_in_place_once(own_search: Any) -> None:
    """Each store that is opened asks for it."""
    for _ in range(3):
        spark_session.ask_spark_only_where_it_is()
    assert getattr(utils, spark_session.NAME).__wrapped__ is own_search


def test_a_version_without_the_search_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to leave out."""
    monkeypatch.delattr(utils, spark_session.NAME)
    spark_session.ask_spark_only_where_it_is()
    assert not hasattr(utils, spark_session.NAME)
