"""InputError, and the sentences that suggest what was meant. ``utils.config`` hands them on."""

import difflib
import re
from collections.abc import Collection, Iterable


class InputError(ValueError):
    """The user's input cannot be used; the message is one sentence: what is wrong, where, and what to do."""

    def _render_traceback_(self):
        """What IPython shows instead of a traceback, which would not help."""
        return [f"{type(self).__name__}: {self}"]


class StoppedError(InputError):
    """A training was interrupted, and saved its state; the message says how to go on."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error message: the valid name closest to ``name``, or all, in printable characters."""
    valid = sorted(" ".join(re.sub(r"[\0-\x1f\x7f-\x9f]", " ", str(option)).split()) for option in valid)
    close = difflib.get_close_matches(name, valid, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(valid)}."


def check_choice(name: str, value, valid: Collection[str]) -> None:
    """Raise InputError, with the nearest valid name, unless the setting's ``value`` is one of ``valid``."""
    if value not in list(valid):
        raise InputError(f"{name}={value!r} is not known; {nearest(str(value), valid)}")
