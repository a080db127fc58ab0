"""Why a trained system decided as it did, and whether to believe the answer."""

from mer_lab.explain.attribution import Attribution, attribute
from mer_lab.explain.baselines import baseline
from mer_lab.explain.methods import METHODS
from mer_lab.explain.question import Question, margin

__all__ = ["METHODS", "Attribution", "Question", "attribute", "baseline", "margin"]
