"""The one exception whose message is meant for the user's eyes."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input: one line that names the file, the row and the fix.

    The command line prints the message without a traceback and exits with code 1.
    """
