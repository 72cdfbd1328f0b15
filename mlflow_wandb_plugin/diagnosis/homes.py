"""Checks of the two homes, each in a thread that is not waited for when its time is up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.core.retry import Backoff
from mlflow_wandb_plugin.diagnosis.check import Check
from mlflow_wandb_plugin.errors import MlflowWandbError, UsageError
from mlflow_wandb_plugin.mlflow_access.existing_store import store_exists
from mlflow_wandb_plugin.targets.mlflow.checks import ask_server, import_store
from mlflow_wandb_plugin.targets.mlflow.client import Client, check_reachable
from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget
from mlflow_wandb_plugin.targets.wandb.lookup import Access, wanted_mode
from mlflow_wandb_plugin.wandb_api.address import default_server

LIMIT_S = 2.0
"""Seconds for each server to answer."""
AT_LEAST_S = 0.5
"""Seconds for a server whose answer had to wait for other checks."""
FILES_S = 60.0
"""Seconds for files of this machine, which may be locked."""

Checks = Callable[[], Iterator[Check]]


class TimedChecks:
    """Checks that ask a server, begun at once.

    Args:
        name: of the check that says that there was no answer.
        what: makes the checks.
        where: the server, without credentials.
        todo: what to do where it does not answer.
        limit_s: seconds that it has.
    """

    def __init__(
        self, name: str, what: Checks, where: str, todo: str, limit_s: float = LIMIT_S
    ) -> None:
        self._name, self._where, self._todo = name, where, todo
        self._what = what
        self._found: list[Check] = []
        self._thread = threading.Thread(target=self._run, name="mlflow-wandb-doctor", daemon=True)
        self._limit_s = limit_s
        self._ends_at = time.monotonic() + limit_s
        self._thread.start()

    def _run(self) -> None:
        try:
            for check in self._what():
                self._found.append(check)
        except MlflowWandbError as error:
            self._found.append(Check(self._name, "problem", str(error), self._todo))
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            said = tracking_uri.shown(" ".join(said.split()))
            self._found.append(Check(self._name, "problem", said, self._todo))

    def results(self) -> list[Check]:
        """Return what was found in time."""
        self._thread.join(max(AT_LEAST_S, self._ends_at - time.monotonic()))
        found = list(self._found)
        if self._thread.is_alive():
            said = f"{self._where} has not answered within {self._limit_s:g} seconds"
            found.append(Check(self._name, "problem", said, self._todo))
        return found


def mlflow_checks(uri: str) -> TimedChecks:
    """Begin to look at the MLflow store at ``uri``."""
    import_store(uri)
    todo = (
        "start it (one that just started is slow), or name another one: MLFLOW_TRACKING_URI, --to"
    )
    limit_s = FILES_S if uri.startswith("sqlite") or "://" not in uri else LIMIT_S
    shown = tracking_uri.shown(uri)
    return TimedChecks("MLflow answers", lambda: _mlflow(uri), shown, todo, limit_s)


def wandb_checks() -> TimedChecks:
    """Begin to look at the W&B server that wandb itself uses."""
    where = default_server()
    todo = "check WANDB_BASE_URL and the network; with WANDB_MODE=offline nothing is asked"
    return TimedChecks("W&B account", lambda: _wandb(where), where, todo)


def _mlflow(uri: str) -> Iterator[Check]:
    shown = tracking_uri.shown(uri)
    check_reachable(uri)
    if not store_exists(uri):
        said = f"{shown} does not exist yet"
        yield Check("MLflow answers", "note", said, "the first run, or a backfill, creates it")
        return
    client = Client(uri, Backoff(patience_s=0))
    arrow = False
    if uri.startswith(("http://", "https://")):
        # Nobody waits for this thread, so the requests need no limit as short as that.
        answer = ask_server(client, FILES_S)
        arrow = answer.arrow
        version = f" (version {answer.version})" if answer.version else ""
        yield Check("MLflow answers", "ok", f"{shown}{version}")
        yield Check("MLflow account", "ok", answer.account)
        yield Check("schema", "ok", "the server's own matter")
    else:
        client.call(client.mlflow.search_experiments, max_results=1)
        yield Check("MLflow answers", "ok", shown)
        yield Check("MLflow account", "ok", "none is needed, or it is in the URI")
        yield Check("schema", "ok", "the tables are those of the installed MLflow")
    yield _write_path(uri, arrow)


def _write_path(uri: str, arrow: bool) -> Check:
    method = MlflowTarget(uri, backoff=Backoff(patience_s=0)).write_method
    if method.path == "bulk":
        return Check("write path", "ok", f"bulk SQL ({method.reason})")
    if arrow:
        return Check("write path", "ok", "Arrow: the server has this package")
    if method.path == "requests":
        todo = "`fast+` before the server's --backend-store-uri lets it take Arrow, which is faster"
        return Check("write path", "note", f"REST ({method.reason})", todo)
    return Check("write path", "note", f"MLflow's own calls ({method.reason})")


def _wandb(where: str) -> Iterator[Check]:
    name = "W&B account"
    try:
        if wanted_mode() == "offline":
            yield Check(name, "ok", "wandb is offline: none is needed")
            return
        account = Access(patience_s=0).account()
    except UsageError as error:
        # The message says what to do.
        yield Check(name, "note", str(error))
        return
    yield Check(name, "ok", f"{account} at {tracking_uri.shown(where)}")
