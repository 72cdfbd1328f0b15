"""The entry points that MLflow loads while it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from mlflow_wandb_plugin.store import entry, uris
from tests.support.environment import isolated

SCHEMES = {
    *uris.DATABASES, *uris.OTHERS,
    "sqlite+pysqlite",
    "postgresql+psycopg2", "postgresql+psycopg", "postgresql+pg8000", "postgresql+psycopg2cffi",
    "mysql+pymysql", "mysql+mysqldb", "mysql+mysqlconnector", "mysql+mariadbconnector",
    "mssql+pyodbc", "mssql+pymssql",
}  # fmt: skip
"""With another driver a database URI works, too, once a store was asked for in the process."""
GROUPS = {
    "mlflow.tracking_store": SCHEMES,
    "mlflow.model_registry_store": SCHEMES,
    "mlflow.workspace_provider": SCHEMES - {"databricks", "file"},
    "mlflow.scorer_store": SCHEMES - {"file"},
    "mlflow.artifact_repository": {"file", "s3", "gs", "mlflow-artifacts", "http", "https"},
}

CHECK = """
import sys, warnings
warnings.filterwarnings("error", message=".*(register|Failure).*")
{first}
import mlflow
heavy = [name for name in ("wandb", "mlflow_wandb_plugin.store.builders", "sqlalchemy.orm.session",
         "mlflow_wandb_plugin.journal.frames") if name in sys.modules]
if not {loads_builders}:
    assert not [name for name in heavy if name != "sqlalchemy.orm.session"], heavy
from mlflow.tracking._tracking_service import utils
from mlflow.tracking._model_registry.utils import _get_store_registry
from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry
from mlflow_wandb_plugin.store import uris
for registry in (utils._tracking_store_registry, _get_store_registry()):
    missing = {{"wandb+" + scheme for scheme in {schemes}}} - set(registry._registry)
    assert not missing, missing
    assert hasattr(registry.get_store_builder, "_mlflow_wandb_original")
assert "wandb+file" in _artifact_repository_registry._registry
assert hasattr(_artifact_repository_registry.get_artifact_repository, "_mlflow_wandb_original")
mlflow.set_tracking_uri("wandb+sqlite:///x.db")
assert mlflow.get_tracking_uri() == "sqlite:///x.db", mlflow.get_tracking_uri()
assert uris.is_mirrored("sqlite:///x.db")
"""


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("prefix", ["wandb+", "fast+"])
def test_every_scheme_has_its_entry_point(prefix: str, group: str) -> None:
    """MLflow needs each scheme with its driver; each entry point can be loaded. Only databases
    are written fast, and artifacts are in none."""
    found = {
        point.name.removeprefix(prefix): point
        for point in entry_points(group=group)
        if point.name.startswith(prefix)
    }
    if prefix == "wandb+":
        assert GROUPS[group] <= set(found)
    else:
        databases = {scheme for scheme in SCHEMES if scheme.partition("+")[0] in uris.DATABASES}
        assert set(found) == (set() if group == "mlflow.artifact_repository" else databases)
    assert all(callable(point.load()) for point in found.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "",
        "import mlflow_wandb_plugin.store.entry",
        "import mlflow_wandb_plugin.store.builders",
        "import mlflow.store.artifact.artifact_repository_registry",
        "from mlflow.server import handlers",
    ],
)
def test_import_order_does_not_matter(first: str, tmp_path: Path) -> None:
    """In every order MLflow gets all schemes, and no slow module is imported."""
    loads_builders = "builders" in first or "handlers" in first
    code = CHECK.format(schemes=SCHEMES, first=first, loads_builders=loads_builders)
    done = subprocess.run(
        [sys.executable, "-c", code], env=isolated(tmp_path), cwd=tmp_path,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_unknown_attribute_is_an_attribute_error() -> None:
    """MLflow survives only an AttributeError from a missing entry point."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        entry.nothing  # noqa: B018


def test_variables_keep_the_native_uri(
    fresh_process: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's worker gets the native URI; an invalid URI stays until its store is built."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "wandb+http://h:1")
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", "wandb+sqlite:///s.db")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "wandb+foo://x")
    entry.strip_environment()
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://h:1"
    assert os.environ["_MLFLOW_SERVER_FILE_STORE"] == "sqlite:///s.db"
    assert os.environ["MLFLOW_REGISTRY_URI"] == "wandb+foo://x"
    assert uris.is_mirrored("http://h:1")
    assert uris.is_mirrored("sqlite:///s.db")


@pytest.mark.parametrize(
    ("arguments", "original"),
    [
        (["/bin/mlflow", "server"], ["python", "/bin/mlflow", "server"]),
        (["-m", "server"], ["python", "-X", "dev", "-m", "mlflow", "server"]),
    ],
)
def test_the_mlflow_command_reads_native_uris(
    fresh_process: Path, arguments: list[str], original: list[str]
) -> None:
    """``mlflow server --backend-store-uri wandb+…`` passes on the native URI."""
    more = ["--backend-store-uri", "wandb+sqlite:///a.db", "--registry-store-uri=wandb+http://h"]
    arguments += more
    entry.strip_command_line(arguments, original + more)
    assert arguments[-3:] == ["--backend-store-uri", "sqlite:///a.db",
                              "--registry-store-uri=http://h"]  # fmt: skip
    assert uris.is_mirrored("sqlite:///a.db")
    assert uris.is_mirrored("http://h")


def test_other_programs_keep_their_arguments(fresh_process: Path) -> None:
    """The arguments of other programs do not change."""
    arguments = ["train.py", "wandb+sqlite:///a.db"]
    entry.strip_command_line(arguments, ["python", *arguments])
    assert arguments == ["train.py", "wandb+sqlite:///a.db"]
    assert uris.MIRROR not in os.environ


def test_the_mlflow_command_refuses_a_wrong_uri_in_one_line(
    fresh_process: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2, before MLflow has done anything."""
    arguments = ["mlflow", "server", "--backend-store-uri", "wandb+foo://x"]
    with pytest.raises(SystemExit) as caught:
        entry.strip_command_line(arguments, ["python", *arguments])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("mlflow: wandb+foo mirrors no MLflow store that exists")
    assert said.count("\n") == 1
