"""The report's page in a real browser: ``make test-browser``."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

from mlflow_wandb_plugin.backfill import html
from mlflow_wandb_plugin.backfill.curves import Curves
from mlflow_wandb_plugin.backfill.outcome import Outcome
from tests.backfill.fakes import run_info
from tests.backfill.test_report_page import POINTS, hostile_page, watched
from tests.support.browser import browser, rendered

pytestmark = pytest.mark.browser


def shown(page: str) -> str:
    """The document of a page once its script has run."""
    program = browser()
    # A browser's socket has no room for pytest's long paths.
    with tempfile.TemporaryDirectory(prefix="ui-") as folder:
        file = Path(folder, "report.html")
        file.write_text(page)
        return rendered(program, file.as_uri(), Path(folder))


def names(document: str) -> list[str]:
    """The names of the runs that are not hidden, in their order."""
    rows = re.findall(r"<tr data-[^>]*>.*?</tr>", document, re.S)
    return [
        re.findall(r"<td[^>]*>(.*?)<br>", row)[0]
        for row in rows
        if " hidden" not in row.partition(">")[0]
    ]


def test_the_page_draws_under_its_own_policy_and_runs_nothing_of_a_run() -> None:
    """Curves are drawn as text and lines; what is hostile in names is text."""
    document = shown(hostile_page())
    assert document.count("<figure>") == 2
    assert "<img" not in document
    assert document.count("<script") == 3
    assert "1 of 1 runs" in document
    assert 'class="key-wandb"' in document
    assert "the two differ" in document


def test_equal_curves_are_drawn_together() -> None:
    """One picture with a line for each home, its axes and its last values."""
    outcome = Outcome(run_info("r1"), "new", "migrated", mlflow_run_id="m")
    document = shown(html.page([outcome], watched(POINTS), lambda *_: POINTS))
    assert document.count("<figure>") == 1
    for part in ('class="wandb"', 'class="mlflow"', 'class="axis"', "step 0", "last 0.25"):
        assert part in document


def test_the_table_is_sorted_and_filtered() -> None:
    """A click on a column sorts by it, numbers as numbers; words and choices hide the others."""
    outcomes = [
        Outcome(run_info("a", name="ant"), "new", "migrated", points=9),
        Outcome(run_info("b", name="bee"), "new", "failed", points=10),
        Outcome(run_info("c", name="cow"), "new", "migrated", points=100),
    ]
    page = html.page(outcomes, Curves(), lambda *_: [])
    # The policy lets no script but the page's own run: it is left out for this one.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    sort = """
        const [head] = [...document.querySelectorAll("th")].filter(h => h.textContent === "points");
        head.querySelector("button").click(); head.querySelector("button").click();
    """
    choose = """
        const form = document.querySelector("form");
        form.elements.action.value = "migrated"; form.elements.words.value = "unit/A";
        form.dispatchEvent(new Event("input"));
    """
    assert names(shown(f"{page}<script>{sort}</script>")) == ["cow", "bee", "ant"]
    assert names(shown(f"{page}<script>{choose}</script>")) == ["ant"]
