"""Convert W&B's names to folder and file names of an archive.

Every name stays inside its folder and is short enough for any file system. Different names stay
different, also on file systems that do not distinguish ``A`` from ``a``.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

from mlflow_wandb_plugin.mapping.names import safe_path

MAX_BYTES = 150
NO_NAME = "_"


def folder_name(label: str) -> str:
    """Return the folder name of an entity, project or run.

    A name of lower-case letters, digits and signs that every file system accepts stays as it is;
    any other is rewritten and ends in a hash of the original.
    """
    if not label:
        return NO_NAME
    clean = _short(safe_path(label).replace("/", "_"))
    plain = label.isascii() and label == label.lower() and label[0] not in "._" and label[-1] != "."
    return clean if clean == label and plain else f"{clean}-{_digest(label)}"


class FileNames:
    """Assigns each file of a run a relative path of its own.

    Args:
        known: (folder, original path, assigned path) of each earlier file.
    """

    def __init__(self, known: Iterable[tuple[str, str, str]] = ()) -> None:
        self._assigned: dict[tuple[str, str], str] = {}
        self._files: set[str] = set()
        self._folders: set[str] = set()
        for below, original, path in known:
            self._assign(below, original, path)

    def name(self, below: str, original: str) -> str:
        """Return the path for ``original`` in folder ``below``, with a hash if it is rewritten."""
        if (below, original) not in self._assigned:
            parts = safe_path(original).split("/")
            short = [_short(part) for part in parts]
            path = "/".join((below, *short))
            if short != parts or self._clashes(path):
                path = _with_digest(path, original)
            if self._clashes(path):
                path = f"{below}/{_digest(original, 64)}"
            self._assign(below, original, path)
        return self._assigned[below, original]

    def _clashes(self, path: str) -> bool:
        folded = _folded(path)
        taken = folded in self._files or folded in self._folders
        return taken or not self._files.isdisjoint(_above(folded))

    def _assign(self, below: str, original: str, path: str) -> None:
        folded = _folded(path)
        self._assigned[below, original] = path
        self._files.add(folded)
        self._folders.update(_above(folded))


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _folded(path: str) -> str:
    """Return the same text for names that some file system does not distinguish."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _short(part: str) -> str:
    """Cut to MAX_BYTES bytes in UTF-8; after `safe_path`, a ``?`` can only be a surrogate."""
    encoded = part.encode("utf-8", "replace").replace(b"?", b"_")
    return encoded[:MAX_BYTES].decode("utf-8", "ignore")


def _with_digest(path: str, original: str) -> str:
    folder, slash, name = path.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    digest = _digest(original)
    named = f"{stem}-{digest}.{suffix}" if dot and stem else f"{name}-{digest}"
    return f"{folder}{slash}{named}"


def _digest(text: str, length: int = 8) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
