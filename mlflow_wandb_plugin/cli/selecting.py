"""Arguments and options of the commands that read a source."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import click

from mlflow_wandb_plugin.core.mlflow_retries import few_mlflow_retries
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.errors import UsageError

STATES = ("running", "finished", "failed", "crashed", "killed", "preempted")
_TARGET = (
    click.option("--to", default="", metavar="URI",
                 help="MLflow tracking URI, or archive:DIR for backfill. Default: MLflow's."),
    click.option("--experiment", default="{project}", show_default=True,
                 help="Name of the MLflow experiment."),
)  # fmt: skip
_SELECTION = (
    click.option("--run", "runs", multiple=True, help="Only this run: id, name or regex."),
    click.option("--filter", "filter_json", default=None,
                 help="MongoDB-style JSON, as wandb.Api takes."),
    click.option("--state", "states", multiple=True, type=click.Choice(STATES),
                 help="Only runs in this W&B state."),
    click.option("--since", default="", metavar="DATE", help="Started then or later (ISO 8601)."),
    click.option("--until", default="", metavar="DATE", help="Started before then (ISO 8601)."),
    click.option("--group", "groups", multiple=True, help="Only runs of this W&B group."),
    click.option("--project", "projects", multiple=True,
                 help="Only this W&B project: name or regex."),
)  # fmt: skip
_CONTENT = (
    click.option("--include-metric", "include_metrics", multiple=True, metavar="REGEX",
                 help="Only these metrics."),
    click.option("--exclude-metric", "exclude_metrics", multiple=True, metavar="REGEX",
                 help="Not these metrics."),
    click.option("--artifacts/--no-artifacts", default=True, show_default=True,
                 help="Carry W&B artifacts, too."),
)  # fmt: skip
_SOURCE = (
    click.option("--recursive", is_flag=True,
                 help="Look for W&B's logs in all folders below SOURCE."),
    click.option("--follow-links", is_flag=True,
                 help="Read linked files of other users and of system and hidden folders, too."),
)  # fmt: skip


def reads_source(command: Callable[..., None]) -> Callable[..., None]:
    """Add source, target and selection to a command.

    The command gets ``source``, ``to``, ``experiment`` and ``selection``; include_metrics,
    exclude_metrics, artifacts, recursive and follow_links are among its options, named as in
    `BackfillOptions`.
    """
    return _with_selection(command, (*_TARGET, *_SELECTION, *_CONTENT, *_SOURCE))


def selects_runs(command: Callable[..., None]) -> Callable[..., None]:
    """Add source and selection to a command.

    The command gets ``source`` and ``selection``; recursive and follow_links are among its options,
    named as in `SourceOptions`.
    """
    return _with_selection(command, (*_SELECTION, *_SOURCE))


def _with_selection(command: Callable[..., None], options: Sequence[Any]) -> Callable[..., None]:
    @functools.wraps(command)
    def with_selection(
        runs: tuple[str, ...], filter_json: str | None, states: tuple[str, ...],
        since: str, until: str, groups: tuple[str, ...], projects: tuple[str, ...], **others: Any,
    ) -> None:  # fmt: skip
        for option, patterns in (("--run", runs), ("--project", projects)):
            for pattern in patterns:
                _check_regex(option, pattern)
        selection = Selection(
            runs=runs,
            filter=None if filter_json is None else _json(filter_json),
            states=states,
            since_ms=_milliseconds(since, "--since"),
            until_ms=_milliseconds(until, "--until"),
            groups=groups,
            projects=projects,
        )
        with few_mlflow_retries():
            command(selection=selection, **others)

    decorated: Callable[..., None] = with_selection
    for option in reversed((click.argument("source"), *options)):
        decorated = option(decorated)
    return decorated


def _check_regex(option: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"{option} {pattern!r} is not a regular expression: {error}; put a backslash before "
            "characters such as ( or [ of a name"
        ) from error


def _json(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text or "{}")
    except ValueError as error:
        raise UsageError(f"--filter is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise UsageError("--filter must be a JSON object, as wandb.Api().runs takes")
    return document


def _milliseconds(date: str, option: str) -> int | None:
    """Convert an ISO 8601 date or time to Unix ms; without a zone it is UTC."""
    if not date:
        return None
    try:
        moment = datetime.fromisoformat(date.replace("Z", "+00:00"))
    except ValueError as error:
        raise UsageError(f"{option} must be a date such as 2024-05-31: {error}") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1000)
