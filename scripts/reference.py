"""Write the pages of docs/ that are made from the code: ``python -m scripts.reference``.

A test compares the pages with what this makes, so that they cannot differ from the code.
"""

from __future__ import annotations

from pathlib import Path

from scripts.command_pages import command_page
from scripts.mapping_pages import mapping_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"docs/cli_reference.md": command_page, "docs/mapping_tables.md": mapping_page}
"""What makes each page, by its path in the checkout."""


def main() -> None:
    for path, page in PAGES.items():
        (ROOT / path).write_text(page(), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
