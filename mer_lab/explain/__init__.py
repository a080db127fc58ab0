"""Why a trained system decided as it did, and whether to believe the answer.

Ask with :class:`Question` and :func:`attribute`; read words and spans with :mod:`~mer_lab.explain.units`;
test with :mod:`~mer_lab.explain.faithfulness`, :mod:`~mer_lab.explain.sanity` and, on Staged,
:mod:`~mer_lab.explain.truth`, all at once with :mod:`~mer_lab.explain.judging`.
"""

from mer_lab.explain.attribution import Attribution, attribute
from mer_lab.explain.baselines import baseline
from mer_lab.explain.methods import METHODS
from mer_lab.explain.question import Question, margin

__all__ = ["METHODS", "Attribution", "Question", "attribute", "baseline", "margin"]
