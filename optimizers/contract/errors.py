"""Errors of the contract.

HoneError
├── InvalidDocument    a file written by an operator does not say what it must
├── InvalidModel       a model file cannot be opened or does not fit its description
├── InvalidData        a data file does not fit the model it is meant for
├── VariantDamaged     a variant directory is incomplete or its bytes changed
├── NotSupported       a step, format or datatype that this installation cannot handle
├── RunFailed          the runtime refused to compute; `terminated` says that we stopped it
├── OutOfMemory        the runtime could not allocate what a run needs
└── SessionClosed      a variant was closed before it could answer
"""


class HoneError(Exception):
    """Base of every error that Hone raises on purpose. Its text may be shown to a user."""


class InvalidDocument(HoneError):
    """A configuration file is wrong; the text names the file, the line, the key and what fits."""


class InvalidModel(HoneError):
    """A model file cannot be opened, or is not what its description says."""


class InvalidData(HoneError):
    """A data file is missing, unreadable, or does not fit the model's signature."""


class VariantDamaged(HoneError):
    """A variant directory is incomplete, or its bytes do not have the digests of its manifest."""


class NotSupported(HoneError):
    """This installation cannot do what was asked."""


class RunFailed(HoneError):
    """The runtime failed while computing.

    Attributes:
        terminated: True when the run was stopped on our own request.
    """

    def __init__(self, text: str, *, terminated: bool = False) -> None:
        super().__init__(text)
        self.terminated = terminated


class OutOfMemory(HoneError):
    """The runtime could not allocate what a run needs."""


class SessionClosed(HoneError):
    """A variant was closed before it could answer; whoever asks again gets its successor."""
