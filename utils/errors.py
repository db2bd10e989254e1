"""The one kind of error that a user can fix."""


class UserError(ValueError):
    """What a user can fix: `main.py` prints its (one-line) message and exits with 2, without a traceback."""
