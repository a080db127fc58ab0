"""The one exception for a user's mistake: a sentence, never a traceback."""

from __future__ import annotations


class MerLabError(Exception):
    """Bad input, a missing file or a full disk, told in one sentence.

    The sentence says which file, which line, what was expected and what to do. The command line prints
    it and exits with status 1; IPython shows it without a traceback.
    """

    def _render_traceback_(self) -> list[str]:  # IPython's hook for exceptions that explain themselves
        return [f"{type(self).__name__}: {self}"]


def check_choices(settings: object, **choices: tuple[str, ...]) -> None:
    """Complain about a setting that is none of those its name allows.

    Raises:
        MerLabError: the first such setting, and what it may be.
    """
    for name, known in choices.items():
        if getattr(settings, name) not in known:
            raise MerLabError(f"{name} is {getattr(settings, name)!r}, expected one of {', '.join(known)}.")


class BudgetError(MerLabError):
    """A budget of memory too small for one utterance; fewer processes would have more each."""
