"""Whether a tracking server takes points as Arrow: asked once, and so until it refuses some."""

from __future__ import annotations

import importlib.util
from typing import Any

from mlflow_wandb_plugin.core.partial_import import is_partial
from mlflow_wandb_plugin.mlflow_access import arrow_points

LOG_BATCH = "/api/2.0/mlflow/runs/log-batch"
PATH = LOG_BATCH + arrow_points.SUFFIX
NOT_TAKEN = frozenset({404, 405, 411, 413, 415})
"""Statuses of a server, or of a proxy before it, that does not take such points, or no longer."""
_FINAL = frozenset(range(400, 500)) - {408, 425, 429}
TIMEOUT_S = 10


class ArrowOffer:
    """What a tracking server has answered; all runs that this process sends to it share it."""

    def __init__(self) -> None:
        self._taken: bool | None = None

    def holds(self, credentials: Any, run_id: str) -> bool:
        """Whether points of a run can be sent as Arrow. Anything unclear means that they cannot,
        for now."""
        if self._taken is None:
            self._taken = _ask(credentials, run_id)
        return bool(self._taken)

    def withdraw(self) -> None:
        """Send nothing more as Arrow: the server has refused it."""
        self._taken = False


def _ask(credentials: Any, run_id: str) -> bool | None:
    """Ask as MLflow's client asks for anything; None if there was no clear answer."""
    from mlflow.utils.rest_utils import http_request

    try:
        response = http_request(  # type: ignore[no-untyped-call]
            credentials, PATH, "GET", max_retries=0, timeout=TIMEOUT_S, params={"run_id": run_id}
        )
        if response.status_code == 200:
            return bool(response.json() == arrow_points.FORMAT)
    except Exception:
        # Of MLflow's, of requests' or of a plugin's: the requests of log_batch that follow meet the
        # same trouble, wait for its end and report it.
        return None
    return False if response.status_code in _FINAL else None


_offers: dict[str, ArrowOffer] = {}


def offer_of(uri: str) -> ArrowOffer | None:
    """The offer of the server at ``uri``; None where this process does not ask for it: without
    pyarrow, or in a replicator, which sends few points at once, and for which it is 6 MB."""
    if is_partial("mlflow") or not all(map(importlib.util.find_spec, ("numpy", "pyarrow"))):
        return None
    return _offers.setdefault(uri, ArrowOffer())
