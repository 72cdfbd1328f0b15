"""A sweep's YAML becomes JSON-compatible values, and never much more than its text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_wandb_plugin.sources.wandb_server.sweep_config import sweep_config

LEVELS = "bcdefghij"


def expanding(first: str, of_level: str) -> str:
    """YAML in which each of nine levels has nine aliases of the level before."""
    lines = [f"a: &a {first}"]
    for before, name in zip("abcdefghi", LEVELS, strict=True):
        lines.append(f"{name}: &{name} " + of_level.format(", ".join(9 * [f"*{before}"])))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        expanding("[x, x]", "[{}]"),
        "a: &a [*a]",
        "a: &a {<<: *a}",
        "[" * 100_000,
        "a: [",
        "a: !!python/object/apply:os.system [true]",
    ],
)
def test_a_config_that_expands_or_is_broken_stays_a_text(text: str) -> None:
    """It is not lost, and costs neither time nor memory."""
    assert sweep_config(text) == {"yaml": text}


def test_merge_keys_of_merge_keys_do_not_expand() -> None:
    """PyYAML takes each key once, or the config stays a text."""
    text = expanding("{x: 1, y: 2}", "{{<<: [{}]}}")
    resolved = {name: {"x": 1, "y": 2} for name in "a" + LEVELS}
    assert sweep_config(text) in ({"yaml": text}, resolved)


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("a: &id001 [1, 2]\nb: *id001\n", {"a": [1, 2], "b": [1, 2]}),
        ("a: &x {k: 1}\nb: {<<: *x, l: 2}\n", {"a": {"k": 1}, "b": {"k": 1, "l": 2}}),
        ("day: 2024-05-01", {"day": "2024-05-01"}),
        ("", {}),
        (None, {}),
        ({"method": "grid"}, {"method": "grid"}),
    ],
)
def test_aliases_and_merge_keys_of_ordinary_size_are_resolved(text: Any, config: Any) -> None:
    """Python's YAML writes an alias wherever a value is used twice."""
    assert json.loads(json.dumps(sweep_config(text))) == config
