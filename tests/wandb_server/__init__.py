"""A small W&B server for tests; what it assumes about the real one is in ASSUMPTIONS.md."""

from .faults import Fault, Request
from .server import WandbServer
from .state import Run, User

__all__ = ["Fault", "Request", "Run", "User", "WandbServer"]
