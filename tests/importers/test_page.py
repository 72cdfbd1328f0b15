"""The blocks of docs/importers.md do what the page says, with real MLflow and loopback servers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.importers.conftest import SOURCE_KEY, TARGET_KEY, rows
from tests.support.documents import blocks
from tests.support.wandb_state import differing, project_of, project_state
from tests.wandb_server import Run, WandbServer

pytestmark = pytest.mark.slow

CODE = [
    block.code for block in blocks() if (block.page, block.kind) == ("docs/importers.md", "python")
]
FROM_MLFLOW, FROM_WANDB = CODE[:3], CODE[3:]


def run_blocks(code: list[str], values: dict[str, str]) -> dict[str, Any]:
    """Run blocks one after another, with other values for the texts of the page."""
    names: dict[str, Any] = {}
    for block in code:
        for old, new in values.items():
            block = block.replace(f'"{old}"', repr(new))
        exec(compile(block, "docs/importers.md", "exec"), names)
    return names


def runs_of(server: WandbServer, entity: str, project: str) -> dict[str, Run]:
    found = project_of(server, entity, project).runs.values()
    return {run.display_name: run for run in found}


def test_blocks_about_mlflow(
    store: str, target: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All runs go into the default project, the chosen ones into the namespace."""
    monkeypatch.setenv("WANDB_BASE_URL", target.url)
    monkeypatch.setenv("WANDB_API_KEY", TARGET_KEY)
    run_blocks(FROM_MLFLOW, {"http://127.0.0.1:5000": store})
    imported = runs_of(target, "tester", "imported-from-mlflow")
    assert sorted(imported) == ["a", "b", "c"]
    assert all("artifacts/n.txt" in run.files for run in imported.values())
    assert sorted(runs_of(target, "my-team", "my-project")) == ["a", "b"]


def test_blocks_about_two_servers(source: WandbServer, target: WandbServer) -> None:
    """The project arrives under its own name and under the other one."""
    source.add_run("my-project", "r1", entity="my-team", rows=rows(3), files={"f": b"1"})
    run_blocks(
        FROM_WANDB,
        {
            "https://api.wandb.ai": source.url,
            "https://example-target.wandb.io": target.url,
            "your-api-key-here": SOURCE_KEY,
            "target-environment-api-key-here": TARGET_KEY,
        },
    )
    wanted = project_state(project_of(source, "my-team", "my-project"))
    for place in (("my-team", "my-project"), ("new-team", "new-project")):
        assert differing(project_state(project_of(target, *place)), wanted) == []
    assert len(target.asked("UpsertBucket")) > 2


def test_the_page_has_all_calls() -> None:
    """Blocks that the two tests above would miss are noticed."""
    assert (len(FROM_MLFLOW), len(FROM_WANDB)) == (3, 3)
    text = "".join(CODE)
    for call in ("collect_runs()", "artifacts=False", "namespace=", "remapping=", "incremental="):
        assert call in text
