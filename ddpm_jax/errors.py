"""The one exception that means "the user can fix this"; every room may raise it."""


class UserError(ValueError):
    """Say in one line what was given, what is wanted and what to do about it.

    `main.py` prints the message without a traceback and exits with status 2. Any other
    exception that reaches it is a defect of this library and keeps its traceback.
    """
