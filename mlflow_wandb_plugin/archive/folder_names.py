"""Names in an archive: what W&B calls a thing may not be what a file system takes.

Every name stays inside its folder, is short enough for any file system, and two names that W&B
tells apart stay apart, also where a file system does not tell ``A`` from ``a``.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

from mlflow_wandb_plugin.mapping.names import safe_path

MAX_BYTES = 150
NO_NAME = "_"


def folder_name(label: str) -> str:
    """The folder of an entity, project or run.

    A name of small letters, digits and signs that every file system takes stays; any other ends
    in a hash of the original.
    """
    if not label:
        return NO_NAME
    clean = _short(safe_path(label).replace("/", "_"))
    plain = label.isascii() and label == label.lower() and label[0] not in "._" and label[-1] != "."
    return clean if clean == label and plain else f"{clean}-{_digest(label)}"


class FileNames:
    """Gives each file of a run a relative path of its own.

    Args:
        known: for each file that is there: the folder it is below, its original path and the
            path that it was given.
    """

    def __init__(self, known: Iterable[tuple[str, str, str]] = ()) -> None:
        self._given: dict[tuple[str, str], str] = {}
        self._files: set[str] = set()
        self._folders: set[str] = set()
        for below, original, path in known:
            self._take(below, original, path)

    def name(self, below: str, original: str) -> str:
        """The path of ``original``, in the folder ``below``: as it is if it can be, else
        rewritten, ending in a hash."""
        if (below, original) not in self._given:
            parts = safe_path(original).split("/")
            short = [_short(part) for part in parts]
            path = "/".join((below, *short))
            if short != parts or self._clashes(path):
                path = _with_digest(path, original)
            if self._clashes(path):
                path = f"{below}/{_digest(original, 64)}"
            self._take(below, original, path)
        return self._given[below, original]

    def _clashes(self, path: str) -> bool:
        folded = _folded(path)
        taken = folded in self._files or folded in self._folders
        return taken or not self._files.isdisjoint(_above(folded))

    def _take(self, below: str, original: str, path: str) -> None:
        folded = _folded(path)
        self._given[below, original] = path
        self._files.add(folded)
        self._folders.update(_above(folded))


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _folded(path: str) -> str:
    """One text for all that some file system holds for the same name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _short(part: str) -> str:
    """At most MAX_BYTES bytes in UTF-8. `safe_path` has left no question mark of its own."""
    whole = part.encode("utf-8", "replace").replace(b"?", b"_")
    return whole[:MAX_BYTES].decode("utf-8", "ignore")


def _with_digest(path: str, original: str) -> str:
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    digest = _digest(original)
    named = f"{stem}-{digest}.{suffix}" if dot and stem else f"{name}-{digest}"
    return f"{folder}{slash}{named}"


def _digest(text: str, length: int = 8) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
