"""Changes the Flask app of an MLflow server's worker as soon as MLflow has made it, and the socket
on which the worker will listen.

The app is made while ``mlflow.server`` is imported, and MLflow opens its store at the first request
that needs one. A path that only some workers knew would look as if it came and went.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from typing import Any

from mlflow_wandb_plugin.core.import_hook import when_imported
from mlflow_wandb_plugin.store import uris

MODULE = "mlflow.server"


def change_when_imported() -> None:
    """Have the app changed if this process is a server's and its store is written fast."""
    if not uris.is_fast(os.environ.get(uris.SERVER_STORE)) or MODULE in sys.modules:
        return
    when_imported(MODULE, _change)


def _change(module: Any) -> None:
    """Change the app of MLflow's module, unless it is not as in the versions that are known."""
    from flask import Flask

    from mlflow_wandb_plugin.store.arrow_requests import take_arrow_points
    from mlflow_wandb_plugin.store.server_requests import VIEW, read_plain_requests

    app = getattr(module, "app", None)
    if isinstance(app, Flask) and VIEW in app.view_functions:
        read_plain_requests(app)
        take_arrow_points(app)
        disable_nagles_algorithm()


def disable_nagles_algorithm() -> None:
    """Set TCP_NODELAY on this process's TCP sockets, and so on the connections that they accept.

    uvicorn does not where it has several workers (its issue 3149): the second of a response's two
    packets waits until the client has acknowledged the first one, 40 ms on Linux. A worker has the
    socket that it will listen on before it imports the app.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir("/dev/fd"):
            # The folder's own descriptor is closed by now.
            with contextlib.suppress(OSError):
                _set_nodelay(int(name))


def _set_nodelay(descriptor: int) -> None:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return
    with socket.socket(fileno=os.dup(descriptor)) as opened:
        if opened.family in (socket.AF_INET, socket.AF_INET6):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
