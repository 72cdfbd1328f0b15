"""``mlflow-wandb plugins``."""

from __future__ import annotations

import json

import click

from mlflow_wandb_plugin import plugins as loading
from mlflow_wandb_plugin.cli.next_commands import examples
from mlflow_wandb_plugin.cli.terminal import echo


@click.command(epilog=examples("mlflow-wandb plugins", "mlflow-wandb plugins --json"))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def plugins(as_json: bool) -> None:
    """List what extends this installation: plugins and the hooks that each implements."""
    manager = loading.manager()
    rows = [
        {
            "name": name,
            "hooks": sorted(caller.name for caller in manager.get_hookcallers(plugin) or []),
        }
        for name, plugin in manager.list_name_plugin()
        if plugin is not None
    ]
    if as_json:
        echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            echo(f"{row['name']}: {', '.join(row['hooks'])}")
