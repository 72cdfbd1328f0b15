"""A target that does not exist yet, as a plan sees it."""

from __future__ import annotations

from collections.abc import Callable

from mlflow_wandb_plugin.core.identity import Origin, Twin
from mlflow_wandb_plugin.core.model import RunInfo
from mlflow_wandb_plugin.core.protocols import RunWriter, Target, WriteMethod
from mlflow_wandb_plugin.errors import TargetError


class AbsentTarget(Target):
    """Has no run, and takes none: what looks at a target must not create it.

    Args:
        uri: what the user named, without credentials.
        comparable: whether a target of this kind is.
        destination: see `Target.destination`.
        viewer: see `Target`.
    """

    write_method = WriteMethod("auto", "the target does not exist yet")

    def __init__(
        self,
        uri: str,
        comparable: bool,
        destination: Callable[[RunInfo], str] = lambda _: "",
        viewer: str = "",
    ) -> None:
        self._uri = uri
        self._destination = destination
        self.comparable = comparable
        self.viewer = viewer

    def find(self, info: RunInfo) -> Twin | None:
        return None

    def open(self, info: RunInfo, origin: Origin, twin: Twin | None = None) -> RunWriter:
        raise TargetError(f"{self._uri} does not exist, and nothing may be created here")

    def destination(self, info: RunInfo) -> str:
        return self._destination(info)
