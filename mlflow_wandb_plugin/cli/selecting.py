"""Arguments and options of the commands that read a source."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import click
from click.shell_completion import CompletionItem

from mlflow_wandb_plugin.core.mlflow_retries import few_mlflow_retries
from mlflow_wandb_plugin.core.model import Selection
from mlflow_wandb_plugin.core.tracking_uri import names_mlflow
from mlflow_wandb_plugin.errors import UsageError

SOURCE_KINDS = ("wandb://", "wandb+https://", "archive:", "mlflow:", "sqlite:///")
STATES = ("running", "finished", "failed", "crashed", "killed", "preempted")
PROJECT = "{project}"
"""The experiment that W&B's runs are written into, unless the user names one."""
_TARGET = (
    click.option("--to", default="", metavar="URI",
                 help="MLflow tracking URI, or archive:DIR for backfill. Default: MLflow's."),
    click.option("--experiment", "experiments", multiple=True, metavar="NAME",
                 help="Name of the MLflow experiment to write into; of runs in MLflow, the one to"
                 " read: name, id or regex.  [default: {project}; all]"),
)  # fmt: skip
_SELECTION = (
    click.option("--run", "runs", multiple=True, help="Only this run: id, name or regex."),
    click.option("--filter", "filter_text", default=None,
                 help="MongoDB-style JSON, as wandb.Api takes; for runs in MLflow, as"
                 " mlflow.search_runs takes."),
    click.option("--state", "states", multiple=True, type=click.Choice(STATES),
                 help="Only runs in this W&B state."),
    click.option("--since", default="", metavar="DATE", help="Started then or later (ISO 8601)."),
    click.option("--until", default="", metavar="DATE", help="Started before then (ISO 8601)."),
    click.option("--group", "groups", multiple=True,
                 help="Only runs of this W&B group, or children of this MLflow run."),
    click.option("--project", "projects", multiple=True,
                 help="Only this W&B project: name or regex."),
)  # fmt: skip
_EXPERIMENT = (
    click.option("--experiment", "experiments", multiple=True, metavar="NAME",
                 help="Only this MLflow experiment: name, id or regex."),
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

    The command gets ``sources``, ``to``, ``experiment`` and ``selection``; include_metrics,
    exclude_metrics, artifacts, recursive and follow_links are among its options, named as in
    `BackfillOptions`.
    """

    @functools.wraps(command)
    def with_template(
        sources: tuple[str, ...],
        selection: Selection,
        experiments: tuple[str, ...],
        **others: Any,
    ) -> None:
        template = PROJECT if names_mlflow(sources[0]) else _template(experiments)
        command(sources=sources, selection=selection, experiment=template, **others)

    options = (*_TARGET, *_SELECTION, *_CONTENT, *_SOURCE)
    return _with_selection(with_template, options, several=True)


def selects_runs(command: Callable[..., None]) -> Callable[..., None]:
    """Add source and selection to a command.

    The command gets ``source`` and ``selection``; recursive and follow_links are among its options,
    named as in `SourceOptions`.
    """

    @functools.wraps(command)
    def without_template(
        sources: tuple[str, ...], experiments: tuple[str, ...], **others: Any
    ) -> None:
        (source,) = sources
        if experiments and not names_mlflow(source):
            raise UsageError("--experiment selects runs in MLflow: use --project for W&B's")
        command(source=source, **others)

    options = (*_SELECTION, *_EXPERIMENT, *_SOURCE)
    return _with_selection(without_template, options, several=False)


def _with_selection(
    command: Callable[..., None], options: Sequence[Any], several: bool
) -> Callable[..., None]:
    """Add the argument and ``options``; ``several`` sources may be given, or one."""

    @functools.wraps(command)
    def with_selection(
        sources: tuple[str, ...], runs: tuple[str, ...], filter_text: str | None,
        states: tuple[str, ...], since: str, until: str, groups: tuple[str, ...],
        projects: tuple[str, ...], experiments: tuple[str, ...], **others: Any,
    ) -> None:  # fmt: skip
        in_mlflow = names_mlflow(sources[0])
        if any(names_mlflow(source) != in_mlflow for source in sources):
            raise UsageError("runs in MLflow and runs in W&B are selected in other ways: name the "
                             "sources of one kind in a command of their own")  # fmt: skip
        chosen = experiments if in_mlflow else ()
        options = ("--run", runs), ("--project", projects), ("--experiment", chosen)
        for option, patterns in options:
            for pattern in patterns:
                _check_regex(option, pattern)
        selection = Selection(
            runs=runs,
            filter=filter_text if in_mlflow or filter_text is None else _json(filter_text),
            states=states,
            since_ms=_milliseconds(since, "--since"),
            until_ms=_milliseconds(until, "--until"),
            groups=groups,
            projects=projects,
            experiments=chosen,
        )
        with few_mlflow_retries():
            command(sources=sources, selection=selection, experiments=experiments, **others)

    decorated: Callable[..., None] = with_selection
    argument = click.argument(
        "sources", nargs=-1 if several else 1, required=True,
        metavar="SOURCE..." if several else "SOURCE", callback=_as_tuple,
        shell_complete=_complete_source,
    )  # fmt: skip
    for option in reversed((argument, *options)):
        decorated = option(decorated)
    return decorated


def _complete_source(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete a path; sources of other kinds are typed."""
    kinds = [CompletionItem(kind) for kind in SOURCE_KINDS if kind.startswith(incomplete)]
    return kinds if incomplete and kinds else [CompletionItem(incomplete, type="file")]


def _as_tuple(context: click.Context, parameter: click.Parameter, value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _template(experiments: tuple[str, ...]) -> str:
    """The template of the experiment that W&B's runs are written into."""
    if len(experiments) > 1:
        raise UsageError(
            "--experiment may be repeated for runs in MLflow only: W&B's are written into one"
        )
    return experiments[0] if experiments else PROJECT


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
