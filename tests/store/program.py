"""A user's script: all of MLflow's fluent API and client that a store or repository can tell.

``python program.py URI`` logs into the MLflow at URI, without a word of the package. What it logs
is the same each time, but for ids and the times that MLflow sets itself.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import mlflow
import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from sklearn.linear_model import LogisticRegression

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 5.0]] * 5)
Y = np.array([0, 1, 0, 1] * 5)

# MLflow 3.1 writes the slash of a key as "#", and then cannot read the file.
IMAGE_KEY = "dog" if mlflow.__version__.startswith("3.1.") else "pictures/dog"


def main() -> None:
    if len(sys.argv) > 1:
        mlflow.set_tracking_uri(sys.argv[1])
    mlflow.set_experiment("team/fluent")
    fluent()
    autologged()
    models()
    with_client()
    asynchronous()
    traces()
    system_metrics()
    renamed_experiment()


def fluent() -> None:
    with mlflow.start_run(run_name="parent", description="a note", tags={"given": "yes"}) as run:
        mlflow.log_param("lr", 0.1)
        mlflow.log_params({"depth": 3, "text": "ä" * 700, "list": [1, 2]})
        for step in (5, 0, 3, -2):
            mlflow.log_metric("loss", 1 / (step + 10), step=step, timestamp=1000 + step)
        mlflow.log_metrics({"a": float("nan"), "b/c": float("inf")}, step=7, timestamp=7)
        mlflow.log_metric("b/c", -float("inf"), step=8, timestamp=8)
        mlflow.set_tags({"one": "1", "two": "2"})
        mlflow.delete_tag("two")
        files()
        for child in range(2):
            with mlflow.start_run(run_name=f"child {child}", nested=True):
                mlflow.log_metric("score", child, timestamp=5)
        frame = pd.DataFrame({"x": [1, 2], "y": [0.5, None]})
        data = mlflow.data.from_pandas(frame, source="somewhere.csv", name="frame")
        mlflow.log_input(data, context="training", tags={"kind": "small"})
    try:
        with mlflow.start_run(run_name="broken"):
            mlflow.log_param("x", 1)
            raise RuntimeError("as planned")
    except RuntimeError:
        pass
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.log_metric("loss", 0.0, step=9, timestamp=2000)


def files() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "sub").mkdir()
        (root / "one.txt").write_text("one")
        (root / "sub" / "two.bin").write_bytes(bytes(range(256)) * 100)
        mlflow.log_artifact(str(root / "one.txt"))
        mlflow.log_artifact(str(root / "one.txt"), "deep/er")
        mlflow.log_artifacts(folder, "all")
    lasting = Path("lasting.txt")
    lasting.write_text("before")
    mlflow.log_artifact(str(lasting))
    lasting.write_text("after!")
    mlflow.log_text("hello", "notes/hello.txt")
    mlflow.log_dict({"a": [1, 2]}, "notes/a.json")
    figure, axes = plt.subplots()
    axes.plot([1, 2, 3])
    mlflow.log_figure(figure, "figure.png")
    plt.close(figure)
    mlflow.log_image(np.zeros((8, 8, 3), dtype=np.uint8), "image.png")
    mlflow.log_image(np.full((8, 8, 3), 9, dtype=np.uint8), key=IMAGE_KEY, step=3)
    mlflow.log_table({"q": ["a", "b"], "n": [1, 2]}, "table.json")
    mlflow.log_table({"q": ["c"], "n": [3]}, "table.json")


def autologged() -> None:
    mlflow.sklearn.autolog(log_models=False, silent=True)
    with mlflow.start_run(run_name="autologged"):
        LogisticRegression(C=2.0, max_iter=50).fit(X, Y)
    mlflow.sklearn.autolog(disable=True, silent=True)


def models() -> None:
    client = MlflowClient()
    model = LogisticRegression().fit(X, Y)
    with mlflow.start_run(run_name="models"):
        info = mlflow.sklearn.log_model(
            model,
            name="classifier",
            registered_model_name="registered",
            pip_requirements=["scikit-learn"],
            serialization_format="cloudpickle",
            input_example=X[:2],
            params={"C": 1.0},
            tags={"stage": "first"},
        )
        mlflow.set_logged_model_tags(info.model_id, {"later": "yes", "gone": "soon"})
        mlflow.delete_logged_model_tag(info.model_id, "gone")
        mlflow.log_metric("accuracy", 0.5, step=1, timestamp=9, model_id=info.model_id)
        mlflow.sklearn.save_model(
            model, "saved", pip_requirements=["scikit-learn"], serialization_format="cloudpickle"
        )
        mlflow.log_artifacts("saved", "as_files")
    client.set_registered_model_alias("registered", "champion", "1")
    client.set_model_version_tag("registered", "1", "checked", "yes")
    client.update_model_version("registered", "1", description="the first")
    loaded = mlflow.pyfunc.load_model("models:/registered@champion")
    assert list(loaded.predict(X)) == list(model.predict(X))
    assert list(mlflow.sklearn.load_model(info.model_uri).predict(X)) == list(model.predict(X))
    client.copy_model_version("models:/registered/1", "copied")
    client.set_registered_model_alias("registered", "old", "1")
    client.delete_registered_model_alias("registered", "old")


def with_client() -> None:
    client = MlflowClient()
    experiment = client.create_experiment("by client", tags={"of": "experiment"})
    run = client.create_run(experiment, start_time=1234, run_name="by client", tags={"t": "u"})
    run_id = run.info.run_id
    client.log_batch(
        run_id,
        metrics=[Metric("m", step / 4, 100 + step // 2, step % 3) for step in range(12)],
        params=[Param("p", "q")],
        tags=[RunTag("in", "batch")],
    )
    client.log_metric(run_id, "m", 77, timestamp=500, step=20)
    client.log_param(run_id, "r", 5)
    client.set_tag(run_id, "mlflow.note.content", "a **note**")
    client.update_run(run_id, name="renamed")
    client.log_text(run_id, "text", "text.txt")
    client.set_terminated(run_id, "KILLED", end_time=5678)
    client.set_tag(run_id, "after", "the end")
    client.delete_run(run_id)
    assert not client.search_runs([experiment], "tags.t = 'u'")
    client.restore_run(run_id)
    found = client.search_runs([experiment], "params.p = 'q' and metrics.m > 1")
    assert [run.info.run_id for run in found] == [run_id]
    down = client.download_artifacts(run_id, "text.txt", tempfile.mkdtemp())
    assert Path(down).read_text() == "text"
    gone = client.create_run(experiment, run_name="deleted")
    client.delete_run(gone.info.run_id)
    client.delete_experiment(client.create_experiment("deleted experiment"))


def asynchronous() -> None:
    with mlflow.start_run(run_name="async"):
        for step in range(40):
            mlflow.log_metric("x", step, step=step, timestamp=step, synchronous=False)
        mlflow.log_params({"later": 1}, synchronous=False)
        mlflow.log_image(np.ones((4, 4, 3)), key="late", step=1, synchronous=False)
        mlflow.flush_async_logging()
        mlflow.flush_artifact_async_logging()


def traces() -> None:
    @mlflow.trace
    def double(x: int) -> int:
        return 2 * x

    with mlflow.start_run(run_name="traced"):
        assert double(4) == 8
    mlflow.flush_trace_async_logging()


def system_metrics() -> None:
    mlflow.set_system_metrics_sampling_interval(0.2)
    mlflow.set_system_metrics_samples_before_logging(1)
    client = MlflowClient()
    with mlflow.start_run(run_name="system", log_system_metrics=True) as run:
        deadline = time.monotonic() + 30
        while not client.get_run(run.info.run_id).data.metrics:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def renamed_experiment() -> None:
    client = MlflowClient()
    experiment = client.create_experiment("before: renaming")
    client.rename_experiment(experiment, "after")
    with mlflow.start_run(experiment_id=experiment, run_name="in the renamed one"):
        mlflow.log_metric("x", 1, timestamp=1)


if __name__ == "__main__":
    os.environ["GIT_PYTHON_REFRESH"] = "quiet"
    main()
