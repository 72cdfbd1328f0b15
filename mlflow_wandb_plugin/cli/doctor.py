"""``mlflow-wandb doctor``."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version

import click

from mlflow_wandb_plugin.errors import MlflowWandbError


@click.command()
def doctor() -> None:
    """Check that the installed wandb can be replicated and that MLflow answers."""
    sound = True
    for name in ("mlflow-wandb-plugin", "mlflow", "wandb"):
        click.echo(f"{name} {version(name)}")
    checks = (
        ("wandb can be followed", _tap),
        ("MLflow answers", _mlflow),
        ("points are written", _write_path),
    )
    for what, check in checks:
        try:
            click.echo(f"ok      {what}: {check()}")
        except MlflowWandbError as error:
            sound = False
            click.echo(f"problem {what}: {error}")
    sys.exit(0 if sound else 1)


def _tap() -> str:
    from mlflow_wandb_plugin.live import tap

    tap.run_class()
    return "yes"


def _mlflow() -> str:
    from mlflow_wandb_plugin.core import tracking_uri
    from mlflow_wandb_plugin.core.retry import Backoff
    from mlflow_wandb_plugin.targets.mlflow.client import Client

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    client = Client(_uri(), Backoff(patience_s=0))
    client.call(client.mlflow.search_experiments, max_results=1)
    return tracking_uri.shown(client.uri)


def _write_path() -> str:
    from mlflow_wandb_plugin.core.retry import Backoff
    from mlflow_wandb_plugin.targets.mlflow.target import MlflowTarget

    return str(MlflowTarget(_uri(), backoff=Backoff(patience_s=0)).write_method)


def _uri() -> str | None:
    from mlflow_wandb_plugin.core import tracking_uri
    from mlflow_wandb_plugin.settings import Settings

    return tracking_uri.uri(Settings.load()) or None
