"""The README of an archive."""

from __future__ import annotations

README = """\
# An archive of W&B runs

Written by mlflow-wandb-plugin. Load it into MLflow, without any W&B access:

    mlflow-wandb backfill archive:THIS_FOLDER --to MLFLOW_TRACKING_URI

Run the command that wrote it again to resume it after an interruption, or to bring it up to date.

| path | content |
|---|---|
| `archive.json` | format and version of this folder |
| `ENTITY/PROJECT/RUN/` | one folder a run; `_` stands for an unknown entity |
| `…/run.json` | the run: name, tags, config, summary, state, times; progress of the archive |
| `…/metrics/part-*.parquet` | logged numbers, one a row |
| `…/system_metrics/part-*.parquet` | system metrics, under W&B's names |
| `…/rows.jsonl` | other values in history (text, lists, media), one line a step |
| `…/files.json` | the run's files and artifacts: W&B's names, and paths of the copies |
| `…/files/`, `…/artifacts/TYPE/NAME/VERSION/` | the copies |

Columns of the Parquet files: `key` (labels of nested keys joined with `.`), `path` (the labels as
a JSON list: `["a", "b"]` is `{"a": {"b": …}}`, `["a.b"]` is `{"a.b": …}`), `step` (meaningless
for system metrics), `timestamp_ms` (Unix time), `value` (double; NaN and infinities as logged).

    import pandas; pandas.read_parquet("ENTITY/PROJECT/RUN/metrics")
    duckdb -c "SELECT key, avg(value) FROM '*/*/*/metrics/*.parquet' GROUP BY key"

A run is complete when `state` in its `run.json` is `complete`. Names that some file system
does not accept or distinguish are rewritten and end in a hash; `run.json` and `files.json` have the
originals. In JSON, `{"$float": "nan"}` is a number that JSON cannot express, `{"$keyed": …}` an
object with nested keys, and `{"$object": …}` an object that would look like one of these.
"""
