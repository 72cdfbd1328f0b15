"""Media values of W&B's history."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlflow_wandb_plugin.mapping import media


def test_a_table_is_described_by_its_file(tmp_path: Path) -> None:
    """The value has the digest, the size and the shape of what was written, as wandb has them."""
    local = tmp_path / "t.json"
    made = media.table("scores", 4, ["a", "b"], [[1, "x"], [2, "é"], [3, None]], local)
    text = '{"columns":["a","b"],"data":[[1,"x"],[2,"\\u00e9"],[3,null]]}'
    assert local.read_text() == text
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = f"media/table/scores_4_{digest[:20]}.table.json"
    assert made.value == {
        "_type": "table-file", "path": path, "sha256": digest, "size": len(text),
        "ncols": 2, "nrows": 3, "log_mode": "IMMUTABLE",
    }  # fmt: skip
    assert (made.file.path, made.file.local) == (path, local)
