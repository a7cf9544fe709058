"""Errors named by what the caller should do; the docstring is the default message."""


class ChargeappError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class MisconfiguredError(ChargeappError):
    """A setting is wrong; the message names it. Nothing starts until it is mended."""


class RequestRefused(ChargeappError):  # noqa: N818 - it is an answer, not a fault
    """The request cannot be accepted as it is; sending it again will not help."""

    def __init__(self, message: str, errors: dict[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.errors = errors or {}


class TemporaryFailure(ChargeappError):  # noqa: N818
    """It may work later."""


class PermanentFailure(ChargeappError):  # noqa: N818
    """It will never work."""


class DatabaseUnavailable(TemporaryFailure):
    """The database cannot commit just now; nothing was stored."""
