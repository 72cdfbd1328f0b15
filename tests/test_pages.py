"""Pages that say what the code has say it as the code has it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

import mlflow_wandb_plugin
from scripts.reference import PAGES as WRITTEN_PAGES
from tests.support.documents import ROOT

FILLED_IN = "…"


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("path", "text"), WRITTEN_PAGES.items(), ids=[*WRITTEN_PAGES])
def test_pages_that_are_made_from_the_code_are_up_to_date(
    path: str, text: Callable[[], str]
) -> None:
    """`make reference` would change nothing."""
    assert (ROOT / path).read_text(encoding="utf-8") == text(), "run: make reference"


def test_mapping_tables_have_what_the_rules_do() -> None:
    """Some rows that were written down by hand: the page is not only what it was made to be."""
    tables = page("mapping_tables.md")
    for row in (
        "| `crashed` | `FAILED` |",
        "| `preempted` | `KILLED` |",
        "| notes | `mlflow.note.content` |",
        "| git commit | `mlflow.source.git.commit` |",
        "| exit code | `wandb.exit_code` |",
        "| `acc@5` | `acc_5` |",
        "| `network.sent` | `system/network_transmit_megabytes` | bytes / 10⁶ |",
        "| `gpu.<n>.temp` | `system/gpu_<n>_temperature_celsius` | the same |",
        "| `SUMMARY_FILE` | `wandb/summary.json` |",
        "| `KILLED` | `255` |",
        "| `0.1` | `0.1` |",
        "| `007` | `'007'` |",
    ):
        assert row in tables, row


@cache
def texts() -> frozenset[str]:
    """All texts in the package's source, with `FILLED_IN` for what is filled in."""
    found = set()
    for file in (ROOT / "mlflow_wandb_plugin").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(map(_part, node.values)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


def _part(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else FILLED_IN


def messages() -> Iterator[tuple[str, str]]:
    """The messages of docs/troubleshooting.md, each with the section that quotes it."""
    for section in re.split(r"^### ", page("troubleshooting.md"), flags=re.M)[1:]:
        heading, _, text = section.partition("\n\n")
        quoted = re.match(r"(`+) ?(.*?) ?\1\n", text)
        assert quoted, heading
        yield quoted[2], text


def test_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    """Twenty, word for word; each with its cause and what to do."""
    found = list(messages())
    assert len({message for message, _ in found}) == 20
    for message, section in found:
        assert any(message in text for text in texts()), message
        assert re.search(r"\*\*Cause\.\*\*\s.+\*\*What to do\.\*\*\s.+", section, re.S), message


def test_counters_of_the_what_survives_page_are_those_of_the_code() -> None:
    """Each kind that is counted has its name in the source."""
    # Names that the code puts together.
    composed = {"param_cut", "tag_cut", "damaged_bytes"}
    rows = re.findall(r"^\| .* \| .* \| (.*) \|$", page("what_survives.md"), re.M)
    counted = {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}
    assert len(counted) > 12
    assert counted - composed <= texts()


def test_every_dependency_has_a_row_with_its_bound_and_licence() -> None:
    """The table of docs/dependencies.md has all of pyproject.toml, and no more."""
    rows = {
        cells[0]: cells[1:]
        for line in re.findall(r"^\| (.*) \|$", page("dependencies.md"), re.M)
        if (cells := line.split(" | "))[0] not in ("package", "---")
    }
    wanted = [Requirement(text) for text in requires("mlflow-wandb-plugin") or ()]
    wanted = [each for each in wanted if each.name != "mlflow-wandb-plugin"]
    assert {each.name for each in wanted} == set(rows)
    for each in wanted:
        bound, licence, extras, why = rows[each.name]
        for part in str(each.specifier).split(",") if each.specifier else ["any"]:
            assert part in bound, each
        assert licence
        assert why
        extra = re.search(r"extra == ['\"](.*?)['\"]", str(each.marker or ""))
        # `dev` has all of `docs` and `test`.
        named = extra[1] if extra else "–"
        assert named in extras or named == "dev", each


def test_python_page_has_every_public_name() -> None:
    """What `mlflow_wandb_plugin` exports is on the page."""
    text = page("python_api.md")
    for name in set(mlflow_wandb_plugin.__all__) - {"__version__"}:
        assert f"`mlflow_wandb_plugin.{name}`" in text, name


def test_concepts_page_has_ten_terms() -> None:
    """A line each."""
    terms = re.findall(r"^\| (.+?) \| (.+) \|$", page("concepts.md"), re.M)[2:]
    assert len(terms) == 10
