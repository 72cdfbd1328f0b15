"""What of one run could not be written to MLflow, or only rewritten."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import asdict, dataclass

from mlflow_wandb_plugin.mapping.documents import canonical_json

KEPT_LINES = 10_000
REFUSED_METRIC = "metric_refused"


@dataclass(frozen=True, slots=True)
class Loss:
    """A param, tag, point or file that is not in MLflow.

    Attributes:
        key: name of the param, tag or metric, or the file's artifact path.
        value, step, timestamp: of a param, tag or point, as text; the time in Unix ms.
    """

    key: str
    reason: str
    value: str | None = None
    step: str | None = None
    timestamp: str | None = None


class Losses:
    """Counts losses by kind and keeps the lines of the first `KEPT_LINES`. Thread-safe.

    Attributes:
        rewrites: counts, by kind, of names, texts and media that were changed to fit.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.rewrites: Counter[str] = Counter()
        self._lines: dict[str, None] = {}
        self._saved = 0
        self._lock = threading.Lock()

    def load(self, text: str) -> None:
        """Take the lines that an earlier session saved."""
        self._lines = {line: None for line in text.split("\n") if line}
        if metrics := sum("step" in json.loads(line) for line in self._lines):
            self.counts[REFUSED_METRIC] = metrics

    def clear(self) -> None:
        """Forget the lines of earlier sessions: all of the run comes again."""
        self._lines = {}
        del self.counts[REFUSED_METRIC]

    def add(self, kind: str, loss: Loss, once: bool = False) -> None:
        """Count a loss; with ``once``, unless its line is there: a log may be read again."""
        document = {name: text for name, text in asdict(loss).items() if text is not None}
        line = canonical_json(document)
        with self._lock:
            if not once or line not in self._lines:
                self.counts[kind] += 1
            if len(self._lines) < KEPT_LINES:
                self._lines[line] = None

    def unsaved_lines(self) -> list[str]:
        """All lines, if there are more than at the last call."""
        with self._lock:
            if len(self._lines) == self._saved:
                return []
            self._saved = len(self._lines)
            return list(self._lines)


def reasons_in(text: str) -> list[str]:
    """Return the saved lines of losses as text: what was lost, and why.

    Raises:
        ValueError: a line is damaged.
    """
    found = [json.loads(line) for line in text.split("\n") if line]
    return [f"{one.get('key')}: {one.get('reason')}" for one in found if isinstance(one, dict)]
