"""Every error that the package raises on purpose, under one base class."""


class MlflowWandbError(Exception):
    """Base class. The message says what is wrong and what to do."""


class UsageError(MlflowWandbError):
    """The user asked for something that cannot be: a bad URI, flag or setting."""


class SourceError(MlflowWandbError):
    """A run, folder or log cannot be read."""


class RecordError(SourceError):
    """One record of a log cannot be understood; those around it can."""


class SourceUnavailableError(SourceError):
    """The source did not answer, or asked us to wait. The request may be repeated.

    Attributes:
        retry_after_s: seconds the source asked us to wait, or None.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TargetError(MlflowWandbError):
    """The target refused a request for good; repeating it would not help."""


class TargetUnavailableError(MlflowWandbError):
    """The target did not answer, or asked us to wait. The request may be repeated.

    Attributes:
        retry_after_s: seconds the target asked us to wait, or None.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class JournalError(MlflowWandbError):
    """A journal cannot be created, written or read."""


class PluginError(MlflowWandbError):
    """A plugin could not be loaded or does not fit the hook specifications."""
