"""``mlflow-wandb doctor``."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import asdict

import click

from mlflow_wandb_plugin.backfill.heading import installed_versions
from mlflow_wandb_plugin.cli.next_commands import examples
from mlflow_wandb_plugin.cli.terminal import echo, say, working
from mlflow_wandb_plugin.core import tracking_uri
from mlflow_wandb_plugin.core.mlflow_retries import RETRIES
from mlflow_wandb_plugin.core.partial_import import load
from mlflow_wandb_plugin.core.training_settings import load_settings
from mlflow_wandb_plugin.diagnosis.check import Check
from mlflow_wandb_plugin.diagnosis.homes import mlflow_checks, wandb_checks
from mlflow_wandb_plugin.diagnosis.installation import classification_check, installation_checks
from mlflow_wandb_plugin.mlflow_access.address import default_uri
from mlflow_wandb_plugin.store import uris


@click.command(
    epilog=examples("mlflow-wandb doctor", "mlflow-wandb doctor --to http://127.0.0.1:5000 --json")
)
@click.option(
    "--to", default="", metavar="URI", help="MLflow tracking URI. Default: MLflow's own setting."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def doctor(to: str, as_json: bool) -> None:
    """Check this installation, both homes, and what waits to be delivered.

    Each line says what was found, and below it what to do about it. A server has two seconds to
    answer. No key is printed, and nothing is written.

    Exit code: 0 no problem was found, 1 one was, 2 it could not start.
    """
    os.environ.setdefault(RETRIES, "0")
    # As a training process has it. Of MLflow, a server's client is enough.
    load("wandb")
    with working("importing MLflow and wandb, and asking both homes"):
        uri = tracking_uri.absolute_uri(
            uris.without_prefix(to or tracking_uri.uri(load_settings()) or default_uri())
        )
        asked = (mlflow_checks(uri), wandb_checks())
        # While the servers answer.
        here = [*installation_checks(), classification_check()]
        checks = [check for one in asked for check in one.results()] + here
    versions = installed_versions()
    if as_json:
        document = {"versions": versions, "checks": [asdict(check) for check in checks]}
        echo(json.dumps(document, indent=1))
    else:
        _show(versions, checks)
    sys.exit(1 if any(check.state == "problem" for check in checks) else 0)


def _show(versions: dict[str, str], checks: list[Check]) -> None:
    for name, number in versions.items():
        say(f"{name} {number}")
    for check in checks:
        # A quiet doctor tells what is wrong.
        show = echo if check.state == "problem" else say
        show(f"{check.state:7} {check.name}: {check.said}")
        if check.todo:
            show(f"        {check.todo}")
    counted = Counter(check.state for check in checks)
    said = [f"{counted['ok']} ok", f"{counted['note']} notes", f"{counted['problem']} problems"]
    echo(", ".join(said))
