"""Every command and every Python block of README.md and docs/ does what the page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest

from mlflow_wandb_plugin.core.identity import STATE
from mlflow_wandb_plugin.settings import Settings, variable_of
from tests.support.documents import PAGES, ROOT, TRAIN, Block, blocks
from tests.support.environment import isolated
from tests.support.mlflow_state import read_runs
from tests.support.processes import run_script
from tests.support.stores import copy_store

RUN = [block for block in blocks() if not block.reason_not_run]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a script written for wandb, and one offline run that it made."""
    folder = tmp_path_factory.mktemp("project")
    work = folder / "work"
    env = isolated(folder, WANDB_DIR=str(work))
    run_script(TRAIN, env, work)
    (work / "script.py").rename(work / "train.py")
    return work


@pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.page}:{block.line}")
def test_block_runs_and_leaves_the_runs_it_says(
    block: Block, project: Path, empty_store: Path, tmp_path: Path
) -> None:
    """A documented block exits with 0 in a user's folder and leaves the runs it says in MLflow."""
    if block.needs and find_spec(block.needs) is None:
        pytest.skip(f"{block.needs} is not installed")
    work = tmp_path / "work"
    shutil.copytree(project, work, symlinks=True, dirs_exist_ok=True)
    if "examples/" in block.code:
        shutil.copytree(ROOT / "examples", work / "examples")
    uri = copy_store(empty_store, work / "mlflow.db")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = isolated(
        tmp_path,
        WANDB_DIR=str(work),
        MLFLOW_TRACKING_URI=uri,
        MLFLOW_WANDB_FINISH_TIMEOUT="180",
        PATH=tools,
    )
    if block.kind == "python":
        command = [sys.executable, "-c", block.code]
    else:
        command = ["bash", "-euo", "pipefail", "-c", block.code]
    done = subprocess.run(command, env=env, cwd=work, text=True, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    complete = [run for run in read_runs(uri).values() if run.tags.get(STATE) == "complete"]
    assert len(complete) == block.complete_runs, done.stdout + done.stderr


def test_every_block_says_what_it_leaves_or_why_it_is_not_run() -> None:
    """No block escapes: each is Python or bash, and has its note."""
    for block in blocks():
        where = f"{block.page}:{block.line}"
        assert block.kind in ("python", "bash"), where
        assert block.reason_not_run or block.complete_runs is not None, where
    assert RUN


def test_make_targets_in_the_pages_exist() -> None:
    """`make X` in a page is a target of the Makefile; these blocks are not run, for they make
    environments."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / page).read_text(), re.M)
    }
    assert {"demo", "test", "test-versions"} <= named <= targets


def test_links_between_pages_lead_somewhere() -> None:
    """Relative links point to files of the checkout, and anchors to their headings."""
    for page in PAGES:
        for link in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text()):
            target, _, anchor = link.partition("#")
            file = (ROOT / page).parent / target if target else ROOT / page
            assert file.exists(), f"{page}: {link}"
            if not anchor:
                continue
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.M)
            anchors = {re.sub(r"[&`.]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{page}: {link}"


def test_settings_page_lists_every_setting_with_its_default() -> None:
    """The settings table is `Settings`, field by field."""
    page = (ROOT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\S+) \|", page, re.M)
    wanted = [
        (
            field.name,
            variable_of(field.name),
            "empty" if field.default == "" else f"`{field.default}`",
        )
        for field in fields(Settings)
    ]
    assert rows == wanted


def test_rule_book_page_lists_every_system_metric() -> None:
    """Each system metric that gets a name of MLflow's stands in docs/mapping.md."""
    from mlflow_wandb_plugin.mapping.system_metrics import (
        _GPU_NAMES,
        SYSTEM_NAMES,
    )
    from mlflow_wandb_plugin.mapping.to_mlflow import MAPPING_VERSION

    page = (ROOT / "docs" / "mapping.md").read_text()
    for name, renamed in SYSTEM_NAMES.items():
        assert f"`{name}`" in page
        assert f"`system/{renamed}`" in page
    for name, renamed in _GPU_NAMES.items():
        assert f"`gpu.<n>.{name}`" in page
        assert f"`system/gpu_<n>_{renamed}`" in page
    assert f"version {MAPPING_VERSION}." in page


def test_rule_book_page_lists_every_tag() -> None:
    """Each tag that describes a run or ties it to its twin stands in docs/mapping.md."""
    from mlflow_wandb_plugin.core import identity
    from mlflow_wandb_plugin.core.model import RunInfo
    from mlflow_wandb_plugin.mapping import to_mlflow
    from mlflow_wandb_plugin.mapping.to_mlflow import MAPPING_VERSION

    facts = ("user", "program", "git_commit", "git_remote", "args", "host", "os", "python",
             "executable", "docker", "gpu", "gpu_count", "cuda")  # fmt: skip
    run = RunInfo(
        "id", "project", "entity", "name", "notes", (), "group", "job", "sweep", "url",
        state="finished", exit_code=0, config={"a": 2}, first_config={("a",): 1},
        facts=dict.fromkeys(facts, "x"),
    )  # fmt: skip
    tags = {
        *to_mlflow.run_tags(run),
        *identity.identity_tags(run, "dual", MAPPING_VERSION),
        identity.POSITION,
    }
    tags |= {identity.LOSSES, identity.REWRITES, identity.ROWS, identity.CLAIM, identity.SWEEP}
    tags |= {identity.STEP_METRIC, identity.STEPS}
    tags |= {identity.PARENT_GROUP}
    page = (ROOT / "docs" / "mapping.md").read_text()
    [listed] = re.findall(r"^\| (.*) \| `wandb\.<name>`; args as JSON \|$", page, re.M)
    machine = {f"wandb.{name}" for name in listed.split(", ")}
    missing = sorted(tag for tag in tags - machine if f"`{tag}`" not in page)
    assert not missing
    assert machine <= tags


def test_architecture_page_has_every_room() -> None:
    """Each module and folder of the package is named in docs/architecture.md."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "mlflow_wandb_plugin"
    rooms = [path.name + "/" for path in package.iterdir() if (path / "__init__.py").is_file()]
    rooms += [path.stem for path in package.glob("*.py") if path.stem != "__init__"]
    assert [room for room in rooms if room.removesuffix("/") not in page] == []
