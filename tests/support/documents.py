"""The code blocks of our Markdown pages, each with what the page's author says about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "examples/README.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")),
)

TRAIN = """
import wandb

with wandb.init(project="mnist") as run:
    for step in range(3):
        run.log({"loss": 1 / (step + 1)})
"""
"""The `train.py` that pages run."""

_BLOCK = re.compile(
    r"(?:^<!--(?P<note>.*?)-->\n)?^```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block; ``note`` is the comment right before it."""

    page: str
    line: int
    kind: str
    note: str
    code: str

    @property
    def reason_not_run(self) -> str:
        return (
            self.note.removeprefix("not run:").strip() if self.note.startswith("not run:") else ""
        )

    @property
    def complete_runs(self) -> int | None:
        """How many complete runs the block leaves in MLflow; None where its note says nothing."""
        found = re.fullmatch(r"(?:needs \w+; )?leaves (\d+) complete runs?", self.note)
        return int(found[1]) if found else None

    @property
    def needs(self) -> str:
        """The third party of an integration that the block imports; empty for none."""
        found = re.match(r"needs (\w+); ", self.note)
        return found[1] if found else ""


def blocks() -> list[Block]:
    """All blocks of all pages that hold commands or Python."""
    found = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            if match["kind"] not in ("text", "yaml"):
                line = text.count("\n", 0, match.start("code")) + 1
                note = (match["note"] or "").strip()
                found.append(Block(page, line, match["kind"], note, match["code"]))
    return found
