"""Convert W&B's keys, tags and files to names and paths that MLflow accepts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from mlflow_wandb_plugin.core.model import Key


@dataclass(frozen=True, slots=True)
class Limits:
    """Maximum lengths in characters, and sizes of batches, that MLflow accepts."""

    key: int
    param_value: int
    tag_value: int
    experiment_name: int
    batch_metrics: int
    batch_params: int
    run_name: int = 250

    @classmethod
    @lru_cache
    def installed(cls) -> Limits:
        """Return the limits of the installed MLflow, or defaults for those it does not define."""
        from mlflow.utils import validation

        return cls(
            key=getattr(validation, "MAX_ENTITY_KEY_LENGTH", 250),
            param_value=getattr(validation, "MAX_PARAM_VAL_LENGTH", 6000),
            tag_value=getattr(validation, "MAX_TAG_VAL_LENGTH", 5000),
            experiment_name=getattr(validation, "MAX_EXPERIMENT_NAME_LENGTH", 500),
            batch_metrics=getattr(validation, "MAX_METRICS_PER_BATCH", 1000),
            batch_params=getattr(validation, "MAX_PARAMS_TAGS_PER_BATCH", 100),
        )


_ILLEGAL = re.compile(r"[^/\w.\- :]")


def legal_name(name: str, limit: int) -> str:
    """Rewrite ``name`` if MLflow refuses it as the key of a metric, param or tag.

    Illegal characters become ``_``, and so do path parts that are empty, ``.`` or ``..``, and two
    dots at the start. A name over ``limit`` characters is cut and ends in a hash of the full name.
    Source: mlflow.utils.validation, which allows ``[/\\w.\\- :]*`` and a normalised path.
    """
    parts = _ILLEGAL.sub("_", name).split("/")
    clean = "/".join("_" * max(1, len(part)) if part in ("", ".", "..") else part for part in parts)
    if clean.startswith(".."):
        clean = "__" + clean[2:]
    return clean if len(clean) <= limit else name_with_hash(clean, name, limit)


def name_with_hash(clean: str, original: str, limit: int) -> str:
    """Return ``clean``, cut to end in a hash of ``original`` within ``limit`` characters."""
    return f"{clean[: limit - 9]}-{_short_hash(original)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


class Namer:
    """Assigns each W&B key of a run its MLflow name; no two keys get the same one.

    A key whose name another key has gets a hash suffix.

    Args:
        limit: the longest name, in characters.
        known: ``renamed`` of an earlier writer of the run.
        taken: all names that the run has; those not in ``known`` equal their dotted keys.

    Attributes:
        renamed: keys as labels, by name, of all names that differ from the dotted key.
    """

    def __init__(
        self, limit: int, known: Mapping[str, list[str]] | None = None, taken: Iterable[str] = ()
    ) -> None:
        self.renamed = {name: list(key) for name, key in (known or {}).items()}
        self._limit = limit
        self._names: dict[Key, str] = {tuple(key): name for name, key in self.renamed.items()}
        self._taken: set[str] = {*self._names.values(), *taken}
        self._unassigned = self._taken - self.renamed.keys()

    def name(self, key: Key, wanted: str = "") -> str:
        """Return the name of a key: the one it has, else ``wanted``, or the dotted key, as far as
        MLflow accepts it."""
        known = self._names.get(key)
        if known is not None:
            return known
        dotted = ".".join(key)
        own = wanted or dotted
        name = legal_name(own, self._limit)
        if name == own and name in self._unassigned:
            self._unassigned.discard(name)
        elif name in self._taken:
            name = self._free_name(name, key)
        self._names[key] = name
        self._taken.add(name)
        if name != dotted or (len(key) > 1 and any("." in label for label in key)):
            self.renamed[name] = list(key)
        return name

    def _free_name(self, name: str, key: Key) -> str:
        original = json.dumps(key)
        while True:
            hashed = name_with_hash(name, original, self._limit)
            if hashed not in self._taken:
                return hashed
            original += "'"


def fitting(renamed: Mapping[str, list[str]], limit: int) -> dict[str, list[str]]:
    """Return the names that `Namer` can have given to their keys; the others are damaged."""
    fits = {}
    for name, key in renamed.items():
        if isinstance(key, list) and all(isinstance(label, str) for label in key):
            clean = legal_name(".".join(key), limit)
            if name == clean or name.rpartition("-")[0] == clean[: limit - 9]:
                fits[name] = key
    return fits


def storable(text: str) -> str:
    """Replace NUL and lone surrogates, which databases and protocols refuse."""
    return _UNSTORABLE.sub("\ufffd", text)


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_UNSAFE = re.compile('[\x00-\x1f\x7f\\\\:*?"<>|#%\ud800-\udfff]')
_PART_BYTES = 200


def is_below(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder``, or lies in it."""
    return f"{path}/".startswith(f"{folder}/")


def safe_path(path: str) -> str:
    """Rewrite a path that comes from a server or user to a relative posix path below its folder.

    Parts that are empty, ``.`` or ``..`` and characters that a file system or MLflow's artifact
    paths refuse are rewritten. A rewritten path has a hash of the original in its file name, so
    that different paths stay different.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    clean = [_cut(_UNSAFE.sub("_", "__" if part == ".." else part)) for part in parts] or ["_"]
    joined = "/".join(clean[-16:])
    if joined == path:
        return joined
    stem, dot, suffix = clean[-1].rpartition(".")
    digest = _short_hash(path)
    clean[-1] = f"{stem}-{digest}.{suffix}" if dot and stem else f"{clean[-1]}-{digest}"
    return "/".join(clean[-16:])


def _cut(part: str) -> str:
    """Cut a file name to a number of bytes that file systems allow."""
    return part.encode()[:_PART_BYTES].decode(errors="ignore")
