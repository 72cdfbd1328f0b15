"""HTML pages that MLflow's artifact viewer shows: one file each, without a request to anywhere.

MLflow shows a page in a frame that may run scripts and nothing else. What is in a page came from
anybody: texts are escaped, and data is JSON that a fixed script reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from mlflow_wandb_plugin.mapping.documents import canonical_json

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
STYLE = (
    "body{font:14px system-ui,sans-serif;margin:16px;color:#1f272d}"
    "h1{font-size:16px;overflow-wrap:anywhere}p{color:#5f7281}"
    "table{border-collapse:collapse}td,th{border:1px solid #cdd5db;padding:2px 8px;text-align:left}"
    "svg,canvas{max-width:100%}input{width:560px;max-width:80%}"
)


def page(title: str, body: str, data: Mapping[str, Any] | None = None, script: str = "") -> str:
    """Return a page.

    Args:
        title: as text.
        body: HTML in which everything that is not ours is escaped.
        data: what ``script`` finds as JSON in the element ``data``.
        script: JavaScript of this package.
    """
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        f"<title>{text(title)}</title><style>{STYLE}</style></head>",
        f"<body><h1>{text(title)}</h1>",
        body,
    ]
    if data is not None:
        # Inside of a script, "<" could end it.
        encoded = canonical_json(data).replace("<", "\\u003c")
        lines.append(f'<script type="application/json" id="data">{encoded}</script>')
        lines.append(f"<script>{script}</script>")
    return "\n".join((*lines, "</body></html>"))


def text(value: object) -> str:
    """Return a value as HTML text, which is safe in attributes, too."""
    # UTF-8 cannot encode a lone surrogate.
    return escape(str(value).encode("utf-8", "replace").decode("utf-8"))
