"""Checks of the exercises: they try an answer on small cases and name the misconception behind a wrong one.

One module a lesson, one function an exercise. A notebook in ``notebooks/exercises`` imports its module and
hands over what the reader wrote: ``check.masked_softmax(masked_softmax)``. ``python -m mer_lab.exercises``
makes these notebooks from ``notebooks/solutions`` and grades what students hand in.
"""

from mer_lab.exercises.checking import Check, Exercise, Misconception, NotYet, all_exercises, exercise

__all__ = ["Check", "Exercise", "Misconception", "NotYet", "all_exercises", "exercise"]
