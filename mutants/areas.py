"""Which modules are changed, and which tests should notice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

PACKAGE = "mlflow_wandb_plugin"


class Module(NamedTuple):
    """A module of the package.

    Attributes:
        path: in the checkout.
        tests: arguments of pytest, the quickest tests first.
        without: functions and classes that are not changed, because no test here runs them.
    """

    path: str
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()


def _mapping(name: str, *tests: str) -> Module:
    return Module(f"{PACKAGE}/mapping/{name}.py", tests or ("tests/mapping",))


_SERVERS = (
    *("PostgreSql", "MySql", "_driver", "_run_and_name", "check_names", "_text", "_literals"),
    *("_literal", "_literal_row", "_split", "_statement_size"),
)
"""Parts of ``dialects.py`` that SQLite does not use."""

AREAS: Mapping[str, tuple[Module, ...]] = {
    "mapping": (
        _mapping("documents"),
        _mapping("names"),
        _mapping("system_metrics"),
        _mapping("to_mlflow"),
        _mapping("to_wandb"),
        _mapping("from_wandb_mirror"),
        _mapping(
            "journal_state",
            "tests/mapping/test_journal_state.py",
            "tests/store/test_run_operations.py",
        ),
        _mapping(
            "media", "tests/mapping/test_media.py", "tests/targets/mlflow/files/test_media.py"
        ),
        _mapping("models", "tests/mapping/test_models.py", "tests/sources/mlflow/test_replica.py"),
    ),
    "identity": (Module(f"{PACKAGE}/core/identity.py", ("tests/core/test_identity.py",)),),
    "replicate": (
        Module(f"{PACKAGE}/core/replicate.py", ("tests/core/test_replicate.py",)),
        Module(f"{PACKAGE}/core/metric_rules.py", ("tests/core/test_metric_rules.py",)),
    ),
    "framing": (
        Module(
            f"{PACKAGE}/wandb_log/framing.py",
            # Importing wandb and starting its core takes longer than all other tests.
            ("tests/wandb_log/test_framing.py", "-k", "not test_wandb_reads and not real_run"),
        ),
        Module(f"{PACKAGE}/journal/frames.py", ("tests/journal",)),
    ),
    "bulk": (
        Module(f"{PACKAGE}/mlflow_access/sql/batches.py", ("tests/mlflow_access/sql",)),
        Module(f"{PACKAGE}/mlflow_access/sql/dialects.py", ("tests/mlflow_access/sql",), _SERVERS),
        Module(
            f"{PACKAGE}/mlflow_access/sql/sessions.py",
            ("tests/mlflow_access/sql",),
            ("MySqlSession",),
        ),
        Module(f"{PACKAGE}/mlflow_access/sql/sqlite_driver.py", ("tests/mlflow_access/sql",)),
        Module(
            f"{PACKAGE}/mlflow_access/point_blocks.py",
            ("tests/mlflow_access/test_point_blocks.py", "tests/mlflow_access/sql"),
        ),
        Module(
            f"{PACKAGE}/targets/mlflow/sql/bulk_points.py",
            ("tests/targets/mlflow/sql/test_bulk_points.py",),
        ),
    ),
}
