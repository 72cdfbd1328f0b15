"""Mongo-style filters and order keys over runs, as `Api.runs(filters=…, order=…)` sends them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

MISSING: Any = object()
Lookup = Callable[[str], Any]
"""Gives the value of a dotted field, or MISSING."""


class BadFilter(ValueError):
    """The filter uses something this server does not know."""


def matches(lookup: Lookup, query: dict[str, Any]) -> bool:
    """Whether the document behind `lookup` satisfies the query."""
    for key, condition in query.items():
        if key == "$and":
            ok = all(matches(lookup, part) for part in condition)
        elif key == "$or":
            ok = not condition or any(matches(lookup, part) for part in condition)
        elif key == "$nor":
            ok = not any(matches(lookup, part) for part in condition)
        elif key == "$not":
            ok = not matches(lookup, condition)
        elif key.startswith("$"):
            raise BadFilter(f"unknown operator {key}")
        else:
            ok = _field_matches(lookup(key), condition)
        if not ok:
            return False
    return True


def _field_matches(value: Any, condition: Any) -> bool:
    if isinstance(condition, dict) and any(key.startswith("$") for key in condition):
        options = str(condition.get("$options", ""))
        return all(
            _operator(value, name, operand, options)
            for name, operand in condition.items()
            if name != "$options"
        )
    return _equal(value, condition)


def _operator(value: Any, name: str, operand: Any, options: str) -> bool:
    if name in _COMPARE:
        return any(_ordered(item, operand, _COMPARE[name]) for item in _each(value))
    if name == "$eq":
        return _equal(value, operand)
    if name == "$ne":
        return not _equal(value, operand)
    if name == "$in":
        return any(_equal(value, item) for item in operand)
    if name == "$nin":
        return not any(_equal(value, item) for item in operand)
    if name == "$exists":
        return (value is not MISSING) == bool(operand)
    if name == "$not":
        return not _field_matches(value, operand)
    if name == "$regex":
        pattern = re.compile(operand, re.IGNORECASE if "i" in options else 0)
        return any(isinstance(item, str) and bool(pattern.search(item)) for item in _each(value))
    raise BadFilter(f"unknown operator {name}")


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda a, b: a > b,
    "$gte": lambda a, b: a >= b,
    "$lt": lambda a, b: a < b,
    "$lte": lambda a, b: a <= b,
}


def _each(value: Any) -> list[Any]:
    """A list matches when one of its members does."""
    return value if isinstance(value, list) else [value]


def _equal(value: Any, operand: Any) -> bool:
    if operand is None:
        return value is MISSING or value is None
    if isinstance(value, list) and not isinstance(operand, list):
        return operand in value
    left, right = _comparable(value), _comparable(operand)
    return bool(left == right) and isinstance(value, bool) == isinstance(operand, bool)


def _ordered(value: Any, operand: Any, compare: Callable[[Any, Any], bool]) -> bool:
    left, right = _comparable(value), _comparable(operand)
    if isinstance(left, int | float) and isinstance(right, int | float):
        return compare(left, right)
    return type(left) is type(right) and isinstance(left, str | datetime) and compare(left, right)


_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")


def _comparable(value: Any) -> Any:
    """Dates written in two ways are the same date."""
    return _date_or_text(value) if isinstance(value, str) else value


@lru_cache(maxsize=100_000)
def _date_or_text(value: str) -> str | datetime:
    if not _DATE.fullmatch(value):
        return value
    try:
        parsed = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return value
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


def sort_key(value: Any) -> tuple[int, Any]:
    """Orders mixed values: missing first, then numbers, then text."""
    value = _comparable(value)
    if value is MISSING or value is None:
        return (0, 0)
    if isinstance(value, int | float):
        return (1, value)
    if isinstance(value, datetime):
        return (2, value)
    return (3, str(value))
