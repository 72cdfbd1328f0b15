"""How often MLflow itself repeats a request, while this package does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
FEW = "1"
_lock = threading.Lock()
_users = 0


@contextmanager
def few_mlflow_retries() -> Iterator[None]:
    """Let MLflow repeat a request once, unless the user has said otherwise: this package repeats
    it, and says that it waits. MLflow's own retries take minutes, without a word.

    The variable is as before when the last thread has left.
    """
    global _users
    with _lock:
        ours = _users > 0 or RETRIES not in os.environ
        if ours:
            _users += 1
            os.environ[RETRIES] = FEW
    try:
        yield
    finally:
        if ours:
            with _lock:
                _users -= 1
                if not _users:
                    os.environ.pop(RETRIES, None)
