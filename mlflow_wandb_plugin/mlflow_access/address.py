"""Where MLflow is, and whether it takes connections."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mlflow_wandb_plugin.core.tracking_uri import absolute_uri


def default_uri() -> str:
    """Return MLflow's own tracking URI, for a client that is given none."""
    import mlflow

    return str(mlflow.get_tracking_uri())


OWN = "mlflow:"
"""Names MLflow's own tracking URI as a source."""


def resolved(uri: str) -> str:
    """Return the tracking URI of a source, absolute: of ``mlflow:``, MLflow's own; ``wandb+`` is
    removed."""
    return absolute_uri((default_uri() if uri == OWN else uri).removeprefix("wandb+"))


def connect(uri: str) -> None:
    """Connect once to an http(s) tracking server: MLflow's client would retry for minutes. Other
    URIs, and servers behind a proxy, are not asked.

    Raises:
        OSError: it takes no connection; an ssl.SSLCertVerificationError if its certificate is not
            trusted.
    """
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or not address.hostname:
        return
    if {address.scheme, "all"} & set(getproxies()) and not proxy_bypass(address.hostname):
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    with socket.create_connection((address.hostname, port), timeout=5) as connection:
        if address.scheme == "https":
            _check_certificate(connection, address.hostname)


def _check_certificate(connection: socket.socket, host: str) -> None:
    """Shake hands as MLflow's client does. It would try again for minutes where the certificate is
    not trusted."""
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return
    import certifi

    names = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    known = next((os.environ[name] for name in names if os.environ.get(name)), certifi.where())
    place = {"capath" if os.path.isdir(known) else "cafile": known}
    context = ssl.create_default_context(**place)  # type: ignore[arg-type]
    with contextlib.suppress(ssl.SSLEOFError, ssl.SSLZeroReturnError):
        context.wrap_socket(connection, server_hostname=host).close()
