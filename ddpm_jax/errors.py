"""The one exception that means "the user can fix this", and values in its message.

Every room may raise it.
"""


class UserError(ValueError):
    """Say in one line what was given, what is wanted and what to do about it.

    `main.py` prints the message without a traceback and exits with status 2. Any other
    exception that reaches it is a defect of this library and keeps its traceback.
    """


def shown(value: object, most: int = 200) -> str:
    """Write a value of any type for a message: one line, cut if it is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}..."
