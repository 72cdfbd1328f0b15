"""Hooks of MkDocs: pages outside of docs/ are part of the site, and links between pages fit it.

Pages link to each other by their paths in the checkout, so that the repository's own viewer follows
them. Here each path becomes that of the site. What the site does not have, such as a folder of
tests, is named instead of linked. A link to nothing stays as it is, and the strict build refuses
it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = "examples/README.md"
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changes.md",
    EXAMPLES: "examples.md",
}
"""Pages outside of docs/ by their path in the checkout, with their path in the site."""
LANGUAGES = {".py": "python", ".sh": "bash", ".ipynb": "json"}
"""Languages of the examples whose source is shown."""

_SOURCES = {site: path for path, site in PAGES.items()}
_NOTE = re.compile(r"^<!--.*?-->\n", re.M | re.S)
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^( *```)", re.M)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages outside of docs/."""
    for path, site in PAGES.items():
        files.append(File.generated(config, site, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Return a page's text for the site; the page of the examples gets their sources, too."""
    path = _SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    text = for_site(markdown, path)
    return text + _sources_of_examples() if path == EXAMPLES else text


def for_site(markdown: str, path: str) -> str:
    """Return the text of the page at ``path`` of the checkout without the notes to the tests, and
    with the site's links."""
    # Text, fence, code, fence, and so on.
    pieces = _FENCE.split(_NOTE.sub("", markdown))
    pieces[::4] = [_with_site_links(text, path) for text in pieces[::4]]
    return "".join(pieces)


def _with_site_links(text: str, path: str) -> str:
    return _LINK.sub(lambda found: _link(found[1], found[2], path), text)


def _link(label: str, link: str, path: str) -> str:
    """Return a link of the page at ``path`` of the checkout as the site has it."""
    target, hash_sign, anchor = link.partition("#")
    if not target or "://" in link:
        return f"[{label}]({link})"
    there = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    site = _in_site(there)
    if site is None:
        return f"{label} (`{there}`)" if (ROOT / there).exists() else f"[{label}]({link})"
    return f"[{label}]({site}{hash_sign}{anchor})"


def _in_site(path: str) -> str | None:
    """Return where the site has a file of the checkout; all pages of the site are in one folder."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    name = path.removeprefix("examples/")
    if name != path and "/" not in name and Path(path).suffix in LANGUAGES:
        return f"{PAGES[EXAMPLES]}#{name.replace('.', '')}"
    return None


def _sources_of_examples() -> str:
    """Return the source of each example, below a heading with its name."""
    shown = []
    for file in sorted((ROOT / EXAMPLES).parent.iterdir()):
        if file.suffix in LANGUAGES:
            source = file.read_text(encoding="utf-8").rstrip()
            shown.append(f"\n## {file.name}\n\n```{LANGUAGES[file.suffix]}\n{source}\n```\n")
    return "".join(shown)
