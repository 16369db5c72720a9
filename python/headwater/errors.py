"""Exceptions. Each is also the built-in exception one would catch for its kind."""


class HeadwaterError(Exception):
    """Base of all; raised itself only for defects of Headwater."""


class NotFoundError(HeadwaterError, FileNotFoundError):
    """The object, directory or bucket does not exist, or a sample lacks an object."""


class AccessDeniedError(HeadwaterError, PermissionError):
    """Credentials are missing or do not suffice; the message names those that were used."""


class ConfigError(HeadwaterError, ValueError):
    """An argument, URI or configuration is wrong."""


class IndexOutOfRangeError(HeadwaterError, IndexError):
    """There is no such sample."""


class CorruptDataError(HeadwaterError, ValueError):
    """An object is damaged or hostile; the message names it and the offset."""


class UnsupportedError(HeadwaterError, ValueError):
    """An object is fine but needs something Headwater does not do."""


class ObjectChangedError(HeadwaterError):
    """An object, or the list of them, is not what it was when the dataset was opened."""


class DeadlineError(HeadwaterError, TimeoutError):
    """A deadline passed; the message names what was waited for."""


class UnavailableError(HeadwaterError, ConnectionError):
    """A remote failed in a way that may pass."""


class StorageError(HeadwaterError, OSError):
    """The operating system refused local I/O."""


# By the core's names for them.
BY_KIND: dict[str, type[HeadwaterError]] = {
    "NotFound": NotFoundError,
    "Denied": AccessDeniedError,
    "Invalid": ConfigError,
    "OutOfRange": IndexOutOfRangeError,
    "Corrupt": CorruptDataError,
    "Unsupported": UnsupportedError,
    "Changed": ObjectChangedError,
    "Timeout": DeadlineError,
    "Unavailable": UnavailableError,
    "Io": StorageError,
}
