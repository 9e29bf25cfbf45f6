"""The exceptions whose messages are meant for the person at the command line."""


class UsageError(ValueError):
    """What a person asked for cannot be done as asked; the command line prints the message alone and exits with 2."""


class CannotWrite(UsageError):  # noqa: N818 - says what happened
    """A file could not be written: no room, no permission; nothing of it was left behind."""
