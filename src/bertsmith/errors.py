"""What went wrong, in one line that a user can act on."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake in what the user gave. The command line prints its text alone, without a traceback.

    The text names the wrong value first and then what to do about it.
    """


def require(condition: bool, message: str) -> None:
    """Raise `UserError` with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def first_line(error: BaseException) -> str:
    """What a library's exception says, in one line; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def suggestion(wrong: str, known: Iterable[str], *, cutoff: float = 0.6, otherwise: str | None = None) -> str:
    """Say which known name was probably meant.

    Args:
        wrong: What was given.
        known: What there is.
        cutoff: How alike two names must be, from 0 to 1; more where there are names of all kinds.
        otherwise: What to do where none is close; None: take one of the known names, which are listed.

    Returns:
        "; did you mean 'x'?" for the closest known name, else "; expected one of ...", or what `otherwise` says.
    """
    names = sorted(known)
    if close := get_close_matches(wrong, names, n=1, cutoff=cutoff):
        return f"; did you mean '{close[0]}'?"
    return f"; {otherwise or 'expected one of ' + ', '.join(names)}"
