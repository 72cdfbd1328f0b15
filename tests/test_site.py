"""The pages build as a site, without network, and load nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.documents import PAGES, ROOT

pytestmark = pytest.mark.skipif(
    find_spec("material") is None or find_spec("mkdocstrings") is None,
    reason="MkDocs is not installed: pip install '.[docs]'",
)

NO_NETWORK = """
import socket, sys
def refused(*_, **__):
    raise OSError("the build uses the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refused
from mkdocs.__main__ import cli
cli(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly by a process that cannot open a connection."""
    folder = tmp_path_factory.mktemp("site")
    build = ["build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, *build],
        cwd=ROOT, env={**os.environ, "PYTHONWARNINGS": "default"}, text=True, capture_output=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_each_page_is_in_the_site(site: Path) -> None:
    """Those of docs/ under their own name, and those of the checkout's other folders."""
    from scripts.site_hooks import PAGES as ELSEWHERE

    for page in PAGES:
        name = ELSEWHERE.get(page, page.removeprefix("docs/"))
        assert (site / name).with_suffix(".html").is_file(), page


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """No script, style, font, image or frame of another host: only links that a reader follows."""
    loaded = re.compile(r"<(?:script|link|img|iframe|source|object)\b[^>]*=[\"']?(?:https?:)?//")
    imported = re.compile(r"@import|url\([\"']?(?:https?:)?//")
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        assert not loaded.search(page.read_text(encoding="utf-8")), page.name
    for style in site.rglob("*.css"):
        assert not imported.search(style.read_text(encoding="utf-8")), style.name


def test_notes_to_the_tests_are_not_in_the_site(site: Path) -> None:
    """What a block leaves, or why it is not run, is of no use to a reader."""
    for page in site.rglob("*.html"):
        assert not re.search(r"<!--\s*(leaves|not run|needs)", page.read_text(encoding="utf-8"))


def test_what_a_strict_build_refuses() -> None:
    """A page that is in no menu, and a link or anchor that leads nowhere, are warnings, which a
    strict build takes for errors."""
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"))
    assert config.strict
    links = ("not_found", "anchors", "absolute_links", "unrecognized_links")
    wanted = {"nav": ("omitted_files", "not_found"), "links": links}
    for part, names in wanted.items():
        assert {name: config.validation[part][name] for name in names} == dict.fromkeys(names, 30)


@pytest.mark.parametrize(
    ("page", "markdown", "shown"),
    [
        ("docs/ray.md", "[a](../README.md#limits)", "[a](index.md#limits)"),
        ("README.md", "[a](docs/ray.md#train) ![b](docs/images/c.png)",
         "[a](ray.md#train) ![b](images/c.png)"),
        ("docs/ray.md", "[a](../tests/frameworks)", "a (`tests/frameworks`)"),
        ("docs/ray.md", "[a](../examples/plain.py)", "[a](examples.md#plainpy)"),
        ("docs/ray.md", "[a](../no/such.md)", "[a](../no/such.md)"),
        ("docs/ray.md", "[a](#b) [c](https://x.test/y.md)", "[a](#b) [c](https://x.test/y.md)"),
        ("docs/ray.md", "```python\nx[0](../a.md)\n```\n", "```python\nx[0](../a.md)\n```\n"),
        ("docs/ray.md", "<!-- leaves 0 runs -->\n```bash\nls\n```\n", "```bash\nls\n```\n"),
    ],
)  # fmt: skip
def test_links_become_those_of_the_site(page: str, markdown: str, shown: str) -> None:
    """Links to pages lead to them, what the site does not have is named, and a link to nothing
    stays for the build to refuse. Blocks of code stay as they are."""
    from scripts.site_hooks import for_site

    assert for_site(markdown, page) == shown
