"""What the archive says of itself."""

from __future__ import annotations

README = """\
# An archive of W&B runs

Written by mlflow-wandb-plugin. Load it into MLflow, without any W&B access:

    mlflow-wandb backfill archive:THIS_FOLDER --to MLFLOW_TRACKING_URI

Run the command that wrote it again to go on where it was stopped, or to bring it up to date.

| where | what |
|---|---|
| `archive.json` | format and version of this folder |
| `ENTITY/PROJECT/RUN/` | one folder a run; `_` stands for an entity that is not known |
| `…/run.json` | the run: name, tags, config, summary, state, times; how far it is archived |
| `…/metrics/part-*.parquet` | what was logged: a row a number |
| `…/system_metrics/part-*.parquet` | what W&B measured on the machine, under W&B's names |
| `…/rows.jsonl` | what history holds beside numbers (text, lists, media): a line a step |
| `…/files.json` | the run's files and artifacts: W&B's names, and where the copies are |
| `…/files/`, `…/artifacts/TYPE/NAME/VERSION/` | the copies |

Columns of the Parquet files: `key` (labels of nested keys joined with `.`), `path` (the labels as
a JSON list: `["a", "b"]` is `{"a": {"b": …}}`, `["a.b"]` is `{"a.b": …}`), `step` (meaningless
for system metrics), `timestamp_ms` (Unix time), `value` (double; NaN and infinities as logged).

    import pandas; pandas.read_parquet("ENTITY/PROJECT/RUN/metrics")
    duckdb -c "SELECT key, avg(value) FROM '*/*/*/metrics/*.parquet' GROUP BY key"

A run is whole when `state` in its `run.json` is `complete`. A name that some file system does not
take, or takes for another one's, is rewritten and ends in a hash; `run.json` and `files.json` hold
the originals. In JSON, `{"$float": "nan"}` is a number that JSON cannot write, `{"$keyed": …}` an
object with nested keys, and `{"$object": …}` an object that only looks like one of these.
"""
