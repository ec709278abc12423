"""What went wrong, in one line that a user can act on."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in what the user gave. The command line prints its text alone, without a traceback.

    The text names the wrong value first and then what to do about it.
    """


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant.

    Returns:
        "; did you mean 'x'?" for the closest known name, else "; expected one of ...".
    """
    names = sorted(known)
    close = get_close_matches(wrong, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; expected one of {', '.join(names)}"
