"""Parse a sweep's config, which W&B's server keeps as YAML, without letting its aliases expand."""

from __future__ import annotations

import json
from typing import Any

MAX_TEXT = 1_000_000
"""Characters of YAML that are parsed, and of JSON that they may become."""
MAX_MERGED = 10_000
"""Keys that a mapping may take from others by merge keys."""


def sweep_config(text: Any) -> Any:
    """Return the config as JSON-compatible values; ``{"yaml": text}`` if it cannot be parsed.

    A few aliases of aliases can stand for gigabytes: a text that becomes too large stays a text.
    """
    import yaml

    if not isinstance(text, str):
        return text or {}
    if len(text) > MAX_TEXT:
        return {"yaml": text}
    try:
        # Through JSON, because the config becomes JSON, which has no dates, unlike YAML.
        return json.loads(_bounded_json(yaml.load(text, _loader()) or {}))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return {"yaml": text}


def _bounded_json(value: Any) -> str:
    parts: list[str] = []
    size = 0
    for part in json.JSONEncoder(default=str).iterencode(value):
        size += len(part)
        if size > MAX_TEXT:
            raise ValueError(f"more than {MAX_TEXT:,} characters of JSON")
        parts.append(part)
    return "".join(parts)


def _loader() -> Any:
    """Return a safe loader that limits merge keys: before 6.0.4, PyYAML copies a key for each."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            merged = 0
            for key, value in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    for below in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                        if isinstance(below, yaml.MappingNode):
                            self.flatten_mapping(below)
                            merged += len(below.value)
                        if merged > MAX_MERGED:
                            raise yaml.YAMLError(f"more than {MAX_MERGED:,} merged keys")
            super().flatten_mapping(node)

    return Loader
