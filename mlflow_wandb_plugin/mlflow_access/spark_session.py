"""MLflow's search for a Spark session, which may name the model registry.

Each `MlflowClient` tries to import pyspark, and `mlflow.log_metric` makes two of them. Where it is
not installed, Python searches all folders of ``sys.path`` each time: a tenth of a call into SQLite.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

NAME = "_get_active_spark_session"


def ask_spark_only_where_it_is() -> None:
    """Let MLflow look for a Spark session in processes only that have imported pyspark: others have
    none. A version of MLflow that looks in another way is left as it is."""
    from mlflow.tracking._model_registry import utils

    search: Any = getattr(utils, NAME, None)
    if search is None or hasattr(search, "__wrapped__"):
        return

    @functools.wraps(search)
    def search_if_imported() -> Any:
        return search() if "pyspark" in sys.modules else None

    setattr(utils, NAME, search_if_imported)
