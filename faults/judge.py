"""Compare what a target has of a run with what its script wrote down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from faults.ledger import KEYS, Ledger, values

Point = tuple[str, int, float, int]
"""Key, the script's row, value, time in ms."""


@dataclass
class Found:
    """What a target has of one run.

    Attributes:
        copies: how many runs of the target are this run; None are ``points`` of the others.
        points: of the keys that scripts log.
        latest: the last value of each key, as the target tells it; None where it tells none.
        status: in the target's own words.
        complete: whether the target's run is marked as complete.
        param: the value of the one param.
    """

    copies: int = 0
    points: list[Point] = field(default_factory=list)
    latest: Mapping[str, float] | None = None
    status: str = ""
    complete: bool = False
    param: str = ""


@dataclass
class Verdict:
    """How one run came out; rows are those of the script, with all of their keys."""

    rows: int = 0
    lost: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)


def judge(found: Found, ledger: Ledger, due: Collection[int], statuses: Sequence[str]) -> Verdict:
    """Judge one run.

    Args:
        due: rows that must be there.
        statuses: those that are right.
    """
    verdict = Verdict(len(due))
    times: Counter[tuple[str, int]] = Counter((key, row) for key, row, _, _ in found.points)
    verdict.lost = [row for row in sorted(due) if not all(times[key, row] for key in KEYS)]
    verdict.doubled = sorted({row for (_, row), count in times.items() if count > 1})
    if found.copies > 1:
        verdict.wrong.append(f"{found.copies} runs in the target")
        verdict.doubled = sorted({*verdict.doubled, *due})
    if not found.copies:
        # A script may be ended before its run begins.
        if ledger.begun:
            verdict.wrong.append("no run in the target")
        return verdict
    verdict.wrong += _wrong_values(found.points, ledger)
    verdict.wrong += _wrong_state(found, statuses)
    return verdict


def _wrong_values(points: Sequence[Point], ledger: Ledger) -> list[str]:
    never = sorted({row for _, row, _, _ in points} - ledger.begun)
    changed = sorted({row for key, row, value, _ in points if values(row)[key] != value})
    return [f"rows that were never logged: {never[:5]}"] * bool(never) + [
        f"other values in rows {changed[:5]}"
    ] * bool(changed)


def _wrong_state(found: Found, statuses: Sequence[str]) -> list[str]:
    wrong = []
    if found.status not in statuses:
        wrong.append(f"status {found.status}, not {' or '.join(statuses)}")
    if not found.complete:
        wrong.append("not marked as complete")
    if found.param != "of the run":
        wrong.append(f"param {found.param!r}")
    if found.latest is not None and found.points:
        last = max(row for _, row, _, _ in found.points)
        there = {key for key, row, _, _ in found.points if row == last}
        stale = [key for key in there if found.latest.get(key) != values(last)[key]]
        wrong += [f"latest value of {key} is {found.latest.get(key)}" for key in stale]
    return wrong
