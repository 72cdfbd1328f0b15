"""Random logging programs through the real SDK: live, backfilled, and as W&B documents it.

One child process runs all programs, a W&B run each; hypothesis shrinks what fails. The reference
below is W&B's documented behaviour in a few lines of dictionaries, independent of the package.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlflow_wandb_plugin import backfill
from tests.support import core_says
from tests.support.commands import wandb_folder
from tests.support.core_says import comparable
from tests.support.environment import isolated
from tests.support.mlflow_state import RunState, read_runs
from tests.support.stores import copy_store

MLFLOW_INF = 1.7976931348623157e308

CHILD = r"""
import json, sys, time
import mlflow_wandb_plugin.wandb as wandb

for line in sys.stdin:
    program = json.loads(line)
    run = wandb.init(project="random", id=program["id"], config={"start": 1},
                     settings=wandb.Settings(console="off", x_disable_stats=True))
    for definition in program["define"]:
        run.define_metric(**definition)
    calls = []
    for kind, *arguments in program["calls"]:
        before = time.time()
        if kind == "log":
            run.log(*arguments)
        elif kind == "summary":
            run.summary[arguments[0]] = arguments[1]
        elif kind == "unset":
            del run.summary[arguments[0]]
        else:
            run.config.update({arguments[0]: arguments[1]}, allow_val_change=True)
        calls.append([int(before * 1000), int(time.time() * 1000)])
    run.finish()
    print(json.dumps({"id": program["id"], "calls": calls}), flush=True)
"""

NUMBERS = st.one_of(
    st.integers(-(2**53), 2**53),
    st.floats(width=32, allow_nan=True, allow_infinity=True),
    st.booleans(),
)
OTHERS = st.one_of(st.none(), st.text('abcé "\\{', max_size=5), st.lists(st.integers(0, 9)))
# "x.y" is also how x: {y: …} is called in MLflow, "r@5" and "r#5" are both r_5 there.
KEYS = st.sampled_from(["loss", "a", "b", "x.y", "x", "val/m", "val/n", "r@5", "r#5", "é", "epoch"])
TREES = st.dictionaries(st.sampled_from(["y", "p", "q"]), NUMBERS, min_size=1, max_size=2)
DATA = st.dictionaries(KEYS, st.one_of(NUMBERS, NUMBERS, NUMBERS, OTHERS, TREES), max_size=4)
LOGS = st.tuples(
    st.just("log"),
    DATA,
    st.one_of(st.none(), st.none(), st.integers(0, 12)),
    st.one_of(st.none(), st.none(), st.booleans()),
)
CALLS = st.one_of(
    LOGS,
    LOGS,
    LOGS,
    st.tuples(st.just("summary"), KEYS, st.one_of(NUMBERS, OTHERS)),
    st.tuples(st.just("unset"), KEYS),
    st.tuples(st.just("config"), st.sampled_from(["start", "c@", "c#"]), st.one_of(NUMBERS, TREES)),
)
DEFINITIONS = st.lists(
    st.sampled_from(
        [
            {"name": "epoch"},
            {"name": "val/*", "step_metric": "epoch"},
            {"name": "loss", "step_metric": "epoch", "step_sync": False},
            {"name": "loss", "summary": "min,max"},
            {"name": "a", "summary": "mean"},
            {"name": "b", "summary": "none"},
        ]
    ),
    max_size=4,
    unique_by=lambda definition: definition["name"],
)
PROGRAMS = st.fixed_dictionaries(
    {"define": DEFINITIONS, "calls": st.lists(CALLS, min_size=1, max_size=12)}
)


class Recorder:
    """Runs programs in one child that dual-writes; reads both MLflows."""

    def __init__(self, child: subprocess.Popen[str], folder: Path, uri: str, fresh: str) -> None:
        self._child, self._folder, self._uri, self._fresh = child, folder, uri, fresh
        self._numbers = itertools.count()

    def record(self, program: dict[str, Any]) -> tuple[dict[str, Any], RunState, RunState]:
        run_id = f"program{next(self._numbers)}"
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps({**program, "id": run_id}) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        assert line, "the child ended"
        assert json.loads(line)["id"] == run_id, "an answer was lost"
        (log,) = wandb_folder({"WANDB_DIR": str(self._folder / "work")}).glob(f"*-{run_id}")
        (outcome,) = backfill(str(log), self._fresh)
        assert (outcome.action, outcome.verdict) == ("migrated", "new"), outcome
        dual, filled = (
            read_runs(uri, self._folder / name, run_id)[run_id]
            for name, uri in (("dual", self._uri), ("filled", self._fresh))
        )
        (file,) = log.glob("*.wandb")
        return {**json.loads(line), "summary": core_says.summary(file)}, dual, filled

    def document(self, run: RunState, path: str) -> Any:
        text = (self._folder / "dual" / run.run_id / path).read_text()
        if path.endswith(".jsonl"):
            return [json.loads(line) for line in text.splitlines()]
        return json.loads(text)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Recorder]:
    folder = tmp_path_factory.mktemp("programs")
    uri = copy_store(empty_store, folder / "mlflow.db")
    fresh = copy_store(empty_store, folder / "fresh.db")
    env = isolated(folder, WANDB_SILENT="true", MLFLOW_WANDB_FINISH_TIMEOUT="120")
    script = folder / "work" / "child.py"
    script.write_text(CHILD)
    with open(folder / "child.log", "w") as log, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        child = subprocess.Popen(
            [sys.executable, str(script)], env=env, cwd=folder / "work", text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        with child:
            try:
                yield Recorder(child, folder, uri, fresh)
            finally:
                child.kill()


class Reference:
    """W&B's history: what each call adds to which row."""

    def __init__(self, definitions: list[dict[str, Any]]) -> None:
        self.rows: dict[int, dict[tuple[str, ...], Any]] = {}
        self.last_call: dict[int, int] = {}
        names = {definition["name"] for definition in definitions}
        self._by_epoch = "val/*" in names
        self._loss_by_epoch = "loss" in names & {
            d["name"] for d in definitions if d.get("step_metric")
        }
        self._epoch: Any = 0
        self._step = 0
        self._open: dict[tuple[str, ...], Any] | None = None
        self._call = 0

    def log(self, call: int, data: dict[str, Any], step: int | None, commit: bool | None) -> None:
        if step is not None and step < self._step:
            return
        if step is not None and step > self._step:
            self.flush()
            self._step = step
        row = self._open = {} if self._open is None else self._open
        self._call = call
        for key, value in data.items():
            for path, leaf in _leaves((key,), value):
                for other in [o for o in row if _above(o, path) or _above(path, o)]:
                    del row[other]
                row[path] = leaf
        if commit or (commit is None and step is None):
            self.flush()
            self._step += 1

    def flush(self) -> None:
        if self._open is None:
            return
        row, self._open = self._open, None
        epoch = row.get(("epoch",))
        if isinstance(epoch, (int, float)) and not isinstance(epoch, bool):
            self._epoch = epoch
        due = self._by_epoch and any(path[0].startswith("val/") for path in row)
        if due and ("epoch",) not in row:
            for below in [path for path in row if path[0] == "epoch"]:
                del row[below]
            row["epoch",] = self._epoch
        self.rows[self._step] = row
        self.last_call[self._step] = self._call

    def mlflow_step(self, step: int, path: tuple[str, ...]) -> int:
        """The step in MLflow of a value in the row ``step``."""
        name = ".".join(path)
        epoch = self.rows[step].get(("epoch",))
        mine = (self._by_epoch and name.startswith("val/")) or (
            self._loss_by_epoch and name == "loss"
        )
        whole = isinstance(epoch, (int, float)) and float(epoch).is_integer()
        return int(epoch) if mine and whole and abs(epoch) < 2**63 else step


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for label, below in value.items():
            yield from _leaves((*path, label), below)
    else:
        yield path, value


def _above(upper: tuple[str, ...], lower: tuple[str, ...]) -> bool:
    return upper != lower and lower[: len(upper)] == upper


@pytest.mark.slow
@pytest.mark.timeout(900)  # what shrinking a failure may take
@settings(max_examples=20, suppress_health_check=list(HealthCheck), print_blob=True)
@given(program=PROGRAMS)
@example(program={"define": [], "calls": [("log", {"r@5": 1, "r#5": 2}, None, None)]})
@example(
    program={
        "define": [{"name": "a", "summary": "mean"}, {"name": "loss", "summary": "min,max"}],
        "calls": [("log", {"a": None, "loss": None}, None, None)],
    }
)
@example(program={"define": [{"name": "b", "summary": "none"}], "calls": [("summary", "b", 0)]})
@example(program={"define": [], "calls": [("log", {"x": {"y": 1}, "x.y": 2}, None, None)]})
@example(
    program={
        "define": [],
        "calls": [("log", {"x.y": {"y": 7}}, None, None), ("summary", "x.y", None)],
    }
)
def test_random_programs_arrive_alike_and_as_logged(
    recorder: Recorder, program: dict[str, Any]
) -> None:
    """Both replicas are equal, and hold each number, text and time that the program logged."""
    said, dual, filled = recorder.record(program)
    left, right = dual.comparable(), filled.comparable()
    for part in left:
        assert left[part] == right[part], part

    reference = Reference(program["define"])
    for number, (kind, *arguments) in enumerate(program["calls"]):
        if kind == "log":
            reference.log(number, *arguments)
    reference.flush()
    names = _names(recorder, dual)
    _check_points(reference, dual, names, said)
    _check_objects(reference, recorder, dual)
    assert comparable(recorder.document(dual, "wandb/summary.json")) == said["summary"]


def _names(recorder: Recorder, run: RunState) -> dict[tuple[str, ...], str]:
    """MLflow's names of rewritten keys, from the document that is to hold the originals."""
    if "wandb/renamed.json" not in run.artifacts:
        return {}
    renamed = recorder.document(run, "wandb/renamed.json")["metrics"]
    return {tuple(path): name for name, path in renamed.items()}


def _check_points(
    reference: Reference,
    run: RunState,
    names: dict[tuple[str, ...], str],
    said: dict[str, Any],
) -> None:
    wanted: dict[str, list[tuple[Any, int, int]]] = {}
    owners: dict[str, tuple[str, ...]] = {}
    for step, row in reference.rows.items():
        for path, value in row.items():
            if isinstance(value, (int, float)):
                name = names.get(path, ".".join(path))
                assert owners.setdefault(name, path) == path, f"{path} shares the name {name}"
                point = _stored(value), step, reference.mlflow_step(step, path)
                wanted.setdefault(name, []).append(point)
    for name, points in wanted.items():
        left = list(run.metrics[name])
        for value, row, step in points:
            first, last = said["calls"][reference.last_call[row]]
            # One that MLflow would take for a repeat of another row's keeps the row's step.
            places = (
                [step, row] if sum(p[0] == value and p[2] == step for p in points) > 1 else [step]
            )
            fitting = [
                p for p in left if p[0] == value and p[2] in places and first <= p[1] <= last
            ]
            assert fitting, (name, row, step, value, left)
            left.remove(fitting[0])


def _check_objects(reference: Reference, recorder: Recorder, run: RunState) -> None:
    wanted = {}
    for step, row in reference.rows.items():
        objects: dict[str, Any] = {}
        for path, value in row.items():
            if not isinstance(value, (int, float)):
                objects[".".join(path)] = value
        if objects:
            wanted[step] = objects
    found = {}
    if "wandb/history.jsonl" in run.artifacts:
        for row in recorder.document(run, "wandb/history.jsonl"):
            step = row.pop("_step")
            del row["_timestamp_ms"]
            found[step] = row
    assert found == wanted


def _stored(value: float) -> Any:
    """As MLflow's SQL store gives it back."""
    number = float(value)
    if math.isnan(number):
        return "nan"
    return math.copysign(MLFLOW_INF, number) if math.isinf(number) else number
