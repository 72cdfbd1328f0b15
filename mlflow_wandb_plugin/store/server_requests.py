"""An MLflow server's requests of log_batch, read without protobuf where they are plain.

Parsing a request of 1,000 metrics into protobuf messages takes longer than writing them. What is
read here becomes the same objects; any other request, valid or not, is MLflow's handler's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from mlflow_wandb_plugin.core.model import INT64

if TYPE_CHECKING:
    from flask import Flask

VIEW = "_log_batch"
FIELDS = {"run_id", "metrics", "params", "tags"}
METRIC_FIELDS = {"key", "value", "timestamp", "step"}
PAIR_FIELDS = {"key", "value"}
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class NotPlainError(Exception):
    """A request is not one of those that are read here."""


class Request(NamedTuple):
    """What a request of log_batch has MLflow's store log."""

    run_id: str
    metrics: list[Metric]
    params: list[Param]
    tags: list[RunTag]


def read_plain_requests(app: Flask) -> None:
    """Have the Flask app of an MLflow server read plain requests of log_batch here."""
    app.view_functions[VIEW] = _view(app.view_functions[VIEW])


def _view(original: Callable[[], Any]) -> Callable[[], Any]:
    from flask import Response
    from mlflow.protos.service_pb2 import LogBatch
    from mlflow.server import handlers
    from mlflow.utils.proto_json_utils import message_to_json

    untyped: Any = handlers
    answer: Any = LogBatch
    empty: str = message_to_json(answer.Response())

    def _log_batch(asked: Request) -> Any:
        untyped._get_tracking_store().log_batch(*asked)
        return Response(empty, mimetype="application/json")

    log = untyped.catch_mlflow_exception(untyped._disable_if_artifacts_only(_log_batch))

    def view() -> Any:
        try:
            asked = plain_request(untyped._get_request_json())
        except (NotPlainError, MlflowException):
            return original()
        return log(asked)

    return view


def plain_request(body: Any) -> Request:
    """The request that a JSON body is.

    Raises:
        NotPlainError: it has another form, and may be none that is valid.
    """
    if type(body) is not dict or not body.keys() <= FIELDS:
        raise NotPlainError
    return Request(
        _text(body.get("run_id")),
        [_metric(each) for each in _list(body.get("metrics", []))],
        [Param(*_pair(each)) for each in _list(body.get("params", []))],
        [RunTag(*_pair(each)) for each in _list(body.get("tags", []))],
    )


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise NotPlainError
    return value


def _metric(given: Any) -> Metric:
    if type(given) is not dict or not given.keys() <= METRIC_FIELDS:
        raise NotPlainError
    value = given.get("value")
    if type(value) is str:
        value = _NOT_FINITE.get(value)
    elif type(value) is int and abs(value) < INT64:
        value = float(value)
    elif type(value) is not float or not math.isfinite(value):
        raise NotPlainError
    at, step = given.get("timestamp"), given.get("step", 0)
    if (
        value is None
        or type(at) is not int
        or type(step) is not int
        or not (-INT64 <= at < INT64 and -INT64 <= step < INT64)
    ):
        raise NotPlainError
    return Metric(_text(given.get("key")), value, at, step)


def _pair(given: Any) -> tuple[str, str]:
    if type(given) is not dict or given.keys() != PAIR_FIELDS:
        raise NotPlainError
    return _text(given["key"]), _text(given["value"], may_be_empty=True)


def _text(value: Any, may_be_empty: bool = False) -> str:
    if type(value) is not str or not (value or may_be_empty):
        raise NotPlainError
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotPlainError from None
    return value
