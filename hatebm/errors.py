"""The one exception whose message is meant for the person at the command line."""


class UsageError(ValueError):
    """What a person asked for cannot be done as asked; the command line prints the message alone and exits with 2."""
