"""The tool of ``make mutants``, on a tiny checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutants.__main__ import Mutant, judge, sample, show
from mutants.areas import AREAS, Module
from mutants.changes import changes
from mutants.trials import Copy, Outcome

ROOT = Path(__file__).resolve().parents[2]
SOURCE = '''\
"""A module."""

from __future__ import annotations


def grade(points: int) -> str:
    """Return "passed" or "failed"."""
    return "passed" if points >= 50 else "failed"
'''
TESTS = """\
from tiny import grade


def test_grade():
    assert grade(60) == "passed"
    assert grade(40) == "failed"
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "tiny.py").write_text(SOURCE)
    (folder / "test_tiny.py").write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    return folder


def test_the_changes_of_a_module() -> None:
    """Each comparison, constant and result, but no docstring and no type."""
    assert [(one.line, one.before, one.after) for one in changes(SOURCE)] == [
        (8, 'return "passed" if points >= 50 else "failed"', "return None"),
        (8, '"passed"', "''"),
        (8, "points >= 50", "points > 50"),
        (8, "50", "49"),
        (8, "50", "51"),
        (8, '"failed"', "''"),
    ]
    assert changes(SOURCE, ("grade",)) == []


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("if a and not b: pass", ["if (a or not b): pass", "if a and (b): pass"]),
        ("x = a - b in c", ["x = a + b in c", "x = a - b not in c"]),
        ("f(True)", ["pass", "f(False)"]),
        (
            "é = 'é' is g(0.5)",
            [
                "é = '' is g(0.5)",
                "é = 'é' is not g(0.5)",
                "é = 'é' is g(-0.5)",
                "é = 'é' is g(1.5)",
            ],
        ),
        ("raise E('text')", []),
    ],
)
def test_a_change_replaces_its_own_place(source: str, changed: list[str]) -> None:
    """The rest of the source stays to the letter, whatever alphabet it has."""
    assert [one.apply(source) for one in changes(source)] == changed


def test_a_mutant_is_killed_or_survives(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkout stays as it was; a bound that no test meets is a survivor of a known place."""
    module = Module("tiny.py", ("test_tiny.py",))
    mutants = [
        Mutant(module, one)
        for one in changes(SOURCE)
        if one.after in ("points > 50", "return None")
    ]
    judged = judge(mutants, Copy(tiny, tmp_path / "work"))
    assert [outcome for _, outcome in judged] == [Outcome.KILLED, Outcome.SURVIVED]
    assert (tiny / "tiny.py").read_text() == SOURCE
    capsys.readouterr()
    show(judged)
    assert capsys.readouterr().out.splitlines() == [
        "| module | mutants | killed | survived | timed out |",
        "| --- | --- | --- | --- | --- |",
        "| tiny.py | 2 | 1 | 1 | 0 |",
        "| all | 2 | 1 | 1 | 0 |",
        "survived: tiny.py:8: points >= 50 → points > 50",
    ]


def test_tests_that_fail_anyway_judge_nothing(tiny: Path, tmp_path: Path) -> None:
    """Without this, each mutant would count as killed."""
    (tiny / "test_tiny.py").write_text("def test_it():\n    assert False\n")
    mutants = [Mutant(Module("tiny.py", ("test_tiny.py",)), changes(SOURCE)[0])]
    with pytest.raises(RuntimeError, match="without a change"):
        judge(mutants, Copy(tiny, tmp_path / "work"))


def test_a_sample_is_the_same_for_a_seed() -> None:
    """Each area has its share, of modules and tests that exist."""
    chosen = sample(1, 13)
    assert len(chosen) == 13
    assert chosen == sample(1, 13)
    assert chosen != sample(2, 13)
    of_areas = [sum(one.module in modules for one in chosen) for modules in AREAS.values()]
    assert of_areas == [3, 3, 3, 2, 2]
    for module in (module for modules in AREAS.values() for module in modules):
        assert (ROOT / module.path).is_file()
        assert any(test.startswith("tests/") for test in module.tests)
        for test in module.tests:
            assert not test.startswith("tests/") or (ROOT / test).exists()
