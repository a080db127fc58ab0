"""What the checks of all exercises share: running an answer safely, counting, and saying what is wrong."""

from __future__ import annotations

import copy
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from IPython.display import display

from mer_lab.errors import MerLabError
from mer_lab.figures import verdict

LEVELS = ("easy", "medium", "hard")


class Misconception(MerLabError, AssertionError):
    """An answer is wrong, and this is what its author seems to believe."""


class NotYet(Misconception):
    """Nothing was written yet: the line that stands for the answer is still there."""


@dataclass(frozen=True)
class Exercise:
    """One exercise, called with the reader's answer: tells the checks passed, or raises the first that fails.

    Attributes:
        number: ``"05.1"``, lesson and place.
        level: ``"easy"``, ``"medium"`` or ``"hard"``.
        minutes: what a reader who did the lesson needs.
        body: the checks, ``body(answer, check)``.
    """

    number: str
    title: str
    level: str
    minutes: int
    body: Callable[[Any, Check], None]

    @property
    def heading(self) -> str:
        """How the notebook names it: ``05.1 Mask a softmax (easy, 10 minutes)``."""
        return f"{self.number} {self.title} ({self.level}, {self.minutes} minutes)"

    def __call__(self, answer: Any) -> None:
        check = Check()
        try:
            self.body(answer, check)
        except Misconception as wrong:
            told = type(wrong)(f"{self.number} {self.title}: {wrong}")
            raise told.with_traceback(wrong.__traceback__) from None
        mark = {"exercise": self.number, "checks": check.passed}
        display(verdict(True, f"{self.number} {self.title}", f"{check.passed} checks passed", mark))


def exercise(number: str, title: str, level: str, minutes: int) -> Callable[[Callable], Exercise]:
    """Make an exercise of a function ``body(answer, check)``; arguments as of :class:`Exercise`."""
    if level not in LEVELS:
        raise MerLabError(f"exercise {number} is {level!r}; choose one of {', '.join(LEVELS)}.")
    return lambda body: Exercise(number, title, level, minutes, body)


class Check:
    """Counts the checks of one exercise; the first that fails raises.

    ``check(ok, message)`` for a property, ``check.equal`` for values, ``check.run`` to call what the reader
    wrote.
    """

    def __init__(self) -> None:
        self.passed = 0

    def __call__(self, ok: bool | np.bool_ | torch.Tensor, message: str) -> None:
        """Pass where ``ok`` is true.

        Raises:
            Misconception: it is false; ``message`` names the misconception and not only the mismatch.
        """
        if not bool(ok):
            raise Misconception(message)
        self.passed += 1

    def equal(self, found: Any, expected: Any, message: str, atol: float = 1e-5) -> None:
        """Pass where two arrays, tensors or numbers are alike in shape and, to ``atol``, in values.

        Raises:
            Misconception: no numbers, another shape (both are said), or other values (``message``).
        """
        try:
            found, expected = array(found), array(expected)
        except (TypeError, ValueError, RuntimeError):
            raise Misconception(f"your code gave {type(found).__name__}, which holds no numbers.") from None
        if found.shape != expected.shape:
            raise Misconception(f"your result has shape {found.shape}, and {expected.shape} is expected.")
        self(np.allclose(found, expected, atol=atol, rtol=1e-5, equal_nan=True), message)

    def run(self, function: Callable, *arguments: Any, **options: Any) -> Any:
        """What the reader's function or class gives for copies of the arguments, which it may change at will.

        Raises:
            NotYet: the stub is still there.
            Misconception: it stopped with an error, or gave nothing.
        """
        if not callable(function):
            raise Misconception(f"hand over the function itself, not {type(function).__name__}.")
        try:
            result = function(*copy.deepcopy(arguments), **copy.deepcopy(options))
        except NotImplementedError:
            raise NotYet("not done yet: write your code in place of the line that raises "
                         "NotImplementedError, run that cell, then this one.") from None  # fmt: skip
        except Exception as error:
            shapes = ", ".join(map(_describe, arguments))
            stopped = f"your code stopped with {type(error).__name__}: {error} (given {shapes})."
            raise Misconception(stopped) from error
        if result is None:
            raise Misconception("your code gives None: is there a `return`?")
        return result


def all_exercises() -> list[tuple[str, Exercise]]:
    """The name of each check, ``"alignment.masked_softmax"``, and its exercise, in the course's order."""
    import mer_lab.exercises as package

    found = []
    for module in pkgutil.iter_modules(package.__path__):
        content = vars(importlib.import_module(f"{package.__name__}.{module.name}"))
        found += [(f"{module.name}.{k}", v) for k, v in content.items() if isinstance(v, Exercise)]
    return sorted(found, key=lambda pair: pair[1].number)


def array(values: Any) -> np.ndarray:
    """Tensor, array or numbers as an array of doubles; raises what numpy does of anything else."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=float)


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__} {tuple(shape)}" if shape is not None else type(value).__name__
