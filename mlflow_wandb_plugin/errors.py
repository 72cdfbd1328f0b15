"""All errors that the package raises, under one base class."""


class MlflowWandbError(Exception):
    """Base class. The message says what is wrong and what to do."""


class UsageError(MlflowWandbError):
    """A URI, flag or setting is wrong."""


class SourceError(MlflowWandbError):
    """A run, folder or log cannot be read."""


class RecordError(SourceError):
    """One record of a log cannot be decoded; other records can."""


class DamagedDownloadError(SourceError):
    """What a server sends differs from what it says of it, also when it is fetched again."""


class UnavailableError(MlflowWandbError):
    """A source or target did not answer, or asked to wait. The request may be repeated.

    Attributes:
        retry_after_s: seconds that it asked to wait, or None.
        patience_s: seconds in which repeating may help, where that is less than usual; or None.
    """

    def __init__(
        self,
        message: str,
        retry_after_s: float | None = None,
        patience_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.patience_s = patience_s


class SourceUnavailableError(UnavailableError, SourceError):
    """The source did not answer, or asked to wait."""


class TargetError(MlflowWandbError):
    """The target refused a request; repeating it would not help."""


class TargetUnusableError(TargetError):
    """The target as a whole cannot be used: its certificate is not trusted, it does not accept the
    credentials, it cannot keep files, or a library is missing here."""


class TargetUnavailableError(UnavailableError):
    """The target did not answer, or asked to wait."""


class JournalError(MlflowWandbError):
    """A journal cannot be created, written or read."""


class PluginError(MlflowWandbError):
    """A plugin could not be loaded or does not fit the hook specifications."""
