"""The figures of the course: each function takes plain data and returns a matplotlib Figure.

Figures are 7 inches wide (770 px at 110 dpi), leave pyplot alone, and name things where they are drawn.
"""

from mer_lab.palette import EMOTION_COLOURS, GREY, INK, colours, style
from mer_lab.plots.comparison import cost_front, reliability_diagram, robustness_curves, selective_curves
from mer_lab.plots.corpora import audit_figure, class_balance
from mer_lab.plots.explanations import curves, explanation, methods_by_criteria
from mer_lab.plots.fairness import (
    all_seeds,
    cost_by_length,
    detectable,
    imagined_gains,
    side_by_side,
    worth,
)
from mer_lab.plots.results import accuracy_by_cue, confusion, forest, training_curves, who_can_do_what
from mer_lab.plots.speech import conversation_ribbon, waveform_and_features

__all__ = [
    "EMOTION_COLOURS", "GREY", "INK", "colours", "style", "conversation_ribbon", "waveform_and_features",
    "confusion", "accuracy_by_cue", "training_curves", "forest", "class_balance", "audit_figure",
    "who_can_do_what", "reliability_diagram", "selective_curves", "robustness_curves", "cost_front",
    "all_seeds", "cost_by_length", "detectable", "imagined_gains", "side_by_side", "worth",
    "curves", "explanation", "methods_by_criteria",
]  # fmt: skip
