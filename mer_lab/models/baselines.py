"""Baselines without a network, from scikit-learn: what any deep result must beat.

Each is fitted on the training split; what it may choose (a strength of regularisation, class weights), it
chooses by the validation score. Each has ``predict_proba(data) -> (U, classes)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mer_lab.batches import Dataset
from mer_lab.errors import MerLabError
from mer_lab.features import prosody_statistics, tokenise
from mer_lab.metrics import scores
from mer_lab.ragged import Ragged


class Majority:
    """The most frequent class of the training split, whatever is said."""

    def fit(self, train: Dataset, validation: Dataset, monitor: str = "wa", seed: int = 0) -> Majority:
        """Count the training labels."""
        classes = len(train.corpus.labels)
        count = np.bincount(train.targets[train.targets >= 0], minlength=classes)
        self.share = np.eye(classes, dtype=np.float32)[count.argmax()]
        return self

    def predict_proba(self, data: Dataset) -> np.ndarray:
        """Probability 1 for the majority class."""
        return np.tile(self.share, (len(data), 1))


class TfidfLogReg:
    """TF-IDF of words and word pairs, multinomial logistic regression."""

    def fit(self, train: Dataset, validation: Dataset, monitor: str = "wa", seed: int = 0) -> TfidfLogReg:
        """Choose C and class weights on validation."""
        from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import: networks do without
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import Pipeline

        texts = train.corpus.table["text"]

        def candidates():
            for weight in (None, "balanced"):
                for C in (0.5, 1.0, 2.0, 4.0, 8.0):
                    words = TfidfVectorizer(
                        tokenizer=tokenise, token_pattern=None, ngram_range=(1, 2), min_df=2
                    )
                    yield Pipeline(
                        [
                            ("words", words),
                            ("classify", LogisticRegression(C=C, class_weight=weight, max_iter=2000)),
                        ]
                    )

        self.classes = len(train.corpus.labels)
        self.model = _best(candidates, texts, train, validation.corpus.table["text"], validation, monitor)
        return self

    def predict_proba(self, data: Dataset) -> np.ndarray:
        """From the texts alone."""
        return _spread(self.model, data.corpus.table["text"], self.classes)


class ProsodyBoosting:
    """Prosody pooled over the utterance, gradient-boosted trees.

    Frames of :class:`~mer_lab.features.Prosody` become 19 statistics; other audio features are averaged over
    time, which leaves a table of one row an utterance as it is. Missing values are left to the trees.
    """

    def fit(self, train: Dataset, validation: Dataset, monitor: str = "wa", seed: int = 0) -> ProsodyBoosting:
        """Choose the number of trees and class weights on validation."""
        from sklearn.ensemble import HistGradientBoostingClassifier


        def candidates():
            for weight in (None, "balanced"):
                for trees in (40, 80, 160):
                    yield HistGradientBoostingClassifier(
                        max_iter=trees, learning_rate=0.06, max_leaf_nodes=4, min_samples_leaf=20,
                        l2_regularization=1.0, class_weight=weight, random_state=seed,
                    )  # fmt: skip

        self.classes = len(train.corpus.labels)
        self.model = _best(
            candidates, pooled(train.audio), train, pooled(validation.audio), validation, monitor
        )
        return self

    def predict_proba(self, data: Dataset) -> np.ndarray:
        """From the pooled frames alone."""
        return _spread(self.model, pooled(data.audio), self.classes)


BASELINES: dict[str, Callable[[], Majority | TfidfLogReg | ProsodyBoosting]] = {
    "majority": Majority,
    "tfidf-logreg": TfidfLogReg,
    "prosody-boosting": ProsodyBoosting,
}


def pooled(audio: Ragged | None) -> np.ndarray:
    """One row of statistics an utterance ``(U, S)``.

    Raises:
        MerLabError: the data have no audio features.
    """
    if audio is None:
        raise MerLabError("this baseline reads audio features, and the data have none.")
    if audio.meta.get("name") == "prosody" and audio.meta.get("hop"):
        return np.stack([prosody_statistics(audio[k], audio.meta["hop"]) for k in range(len(audio))])
    return np.stack([audio[k].mean(0) for k in range(len(audio))])


def _best(candidates, x, train: Dataset, x_validation, validation: Dataset, monitor: str):
    """The candidate with the best validation score; the first of equals."""
    known = train.targets >= 0
    x, y = x[known], train.targets[known]
    best, best_score = None, -1.0
    for model in candidates():
        model.fit(x, y)
        score = scores(validation.targets, model.predict(x_validation), validation.corpus.labels)[monitor]
        if score > best_score:
            best, best_score = model, score
    return best


def _spread(model, x: Sequence, classes: int) -> np.ndarray:
    """Probabilities over all classes, 0 for those that the training split lacks."""
    out = np.zeros((len(x), classes), np.float32)
    out[:, model.classes_] = model.predict_proba(x)
    return out
