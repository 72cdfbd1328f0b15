"""Runs on MySQL, and the rows that they have there."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine

from mlflow_wandb_plugin.targets.mlflow.sql.bulk_points import Points


def new_run(client: Any) -> str:
    return str(client.create_run("0").info.run_id)


def rows(engine: Engine, run_id: str, table: str = "metrics") -> list[str]:
    """A run's rows as the database holds them: names to the letter, zeros with their signs."""
    columns = "`key`, value" if table == "tags" else "`key`, value, timestamp, step, is_nan"
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            f"SELECT {columns} FROM {table} WHERE run_uuid = %s AND `key` <> 'mlflow.runName'",
            (run_id,),
        )
        return sorted(map(str, found))


def line(name: str, count: int) -> Points:
    """A metric whose step, time and value are the number of its point."""
    return Points(name, [float(number) for number in range(count)], range(count), range(count))
