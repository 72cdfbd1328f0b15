"""Points that an MLflow server takes as Arrow, at a path of its own beside that of log-batch.

A request to that path is answered as one of log-batch to the same run: its path and its body are
replaced before Flask sees it. So whatever MLflow, its basic-auth app or another app does before a
request of log-batch is done before this one, and the run that was authorised is the run that is
written. A GET asks whether points would be taken.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs

from mlflow_wandb_plugin.mlflow_access import arrow_points
from mlflow_wandb_plugin.mlflow_access.arrow_points import ArrowFormatError
from mlflow_wandb_plugin.store.server_requests import VIEW

if TYPE_CHECKING:
    from flask import Flask, Response

_ASKED = "mlflow_wandb.points"
_MOST_OF_ID = 250


class _Asked(NamedTuple):
    """A request as it came.

    Attributes:
        length: what it says of the size of its body in bytes; empty if nothing.
    """

    method: str
    content_type: str
    length: str
    body: Any


def take_arrow_points(app: Flask) -> None:
    """Have the Flask app of an MLflow server take points as Arrow beside each path of log-batch."""
    paths = {rule.rule + arrow_points.SUFFIX: rule.rule for rule in app.url_map.iter_rules(VIEW)}
    app.view_functions[VIEW] = _view(app.view_functions[VIEW])
    app.wsgi_app = _redirected(app.wsgi_app, paths)  # type: ignore[method-assign]


def _redirected(original: Callable[..., Any], paths: Mapping[str, str]) -> Callable[..., Any]:
    """A WSGI application that gives requests to one of ``paths`` to the path of log-batch."""

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = paths.get(environ.get("PATH_INFO", ""))
        if path is not None and environ["REQUEST_METHOD"] in ("GET", "POST"):
            environ = _as_log_batch(environ, path)
        answer: Iterable[bytes] = original(environ, start_response)
        return answer

    return application


def _as_log_batch(environ: dict[str, Any], path: str) -> dict[str, Any]:
    given = parse_qs(environ.get("QUERY_STRING", "")[: 4 * _MOST_OF_ID])
    body = json.dumps({"run_id": given.get("run_id", [""])[0]}).encode()
    asked = _Asked(
        environ["REQUEST_METHOD"],
        environ.get("CONTENT_TYPE", ""),
        environ.get("CONTENT_LENGTH", ""),
        environ["wsgi.input"],
    )
    kept = {name: value for name, value in environ.items() if name != "HTTP_TRANSFER_ENCODING"}
    return kept | {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        _ASKED: asked,
    }


def _view(original: Callable[[], Any]) -> Callable[[], Any]:
    """The view of log-batch, which answers the requests that were one of Arrow, too."""
    from flask import request
    from mlflow.server import handlers

    untyped: Any = handlers
    answer = untyped.catch_mlflow_exception(untyped._disable_if_artifacts_only(_answer))

    def view() -> Any:
        asked = request.environ.get(_ASKED)
        return original() if asked is None else answer(asked)

    return view


def _answer(asked: _Asked) -> Response:
    """What `_view` answers.

    Raises:
        MlflowException: as MLflow's `log_batch`.
    """
    from flask import jsonify, request
    from mlflow.server import handlers

    from mlflow_wandb_plugin.store.fast_writes import FastWrites

    untyped: Any = handlers
    store, run_id = untyped._get_tracking_store(), request.get_json()["run_id"]
    if not isinstance(store, FastWrites):
        return _refusal(404, "this server's store takes points by log-batch only")
    if asked.method == "GET":
        return jsonify(arrow_points.FORMAT)
    if asked.content_type != arrow_points.CONTENT_TYPE:
        return _refusal(415, f"the body must be {arrow_points.CONTENT_TYPE}")
    if not asked.length.isdecimal():
        return _refusal(411, "the request must have a Content-Length")
    if len(asked.length) > 9 or int(asked.length) > arrow_points.MOST_BYTES:
        return _refusal(413, f"the body may have {arrow_points.MOST_BYTES} bytes")
    body = asked.body.read(int(asked.length))
    if len(body) != int(asked.length):
        return _refusal(400, "the body ended early")
    try:
        blocks = arrow_points.decode(body)
    except ArrowFormatError as error:
        return _refusal(400, f"no points: {error}")
    store.log_points(run_id, blocks)
    return jsonify(arrow_points.receipt(blocks))


def _refusal(status: int, message: str) -> Response:
    from flask import jsonify

    response = jsonify({"error_code": "BAD_REQUEST", "message": message[:300]})
    response.status_code = status
    return response
