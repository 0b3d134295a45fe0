"""Exceptions that a caller may want to catch; all others are ValueError, TypeError or OSError.

MlffError
├── ModelFileError        a checkpoint is missing, damaged, or not one of ours
├── OutOfDomainError      an element or a charge that the model was not trained on
├── DeviceError           the device or the backend that was asked for is not there
├── LibraryError          the input library cannot be read
└── OutputError           the output folder cannot be used
"""


class MlffError(Exception):
    """Base of every exception that mlff-screen raises on purpose."""


class ModelFileError(MlffError):
    """A checkpoint is missing, damaged, or not one of ours."""


class OutOfDomainError(MlffError, ValueError):
    """An element or a total charge that the model was not trained on; names it."""


class DeviceError(MlffError):
    """The device or the backend that was asked for is not available here."""


class LibraryError(MlffError):
    """The input library cannot be read: missing, unreadable, of unknown kind, or without SMILES."""


class OutputError(MlffError):
    """The output folder cannot be used: unwritable, or holds another run's results."""
