"""What is written down: a recipe, its result with every test prediction, and two results compared."""

from __future__ import annotations

import base64
import json
import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
import pandas as pd
import tomli_w

from mer_lab.errors import MerLabError
from mer_lab.files import digest, write_text
from mer_lab.models import REVISIONS
from mer_lab.statistics import Difference, paired_difference
from mer_lab.training import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a result; round-trips through TOML.

    Attributes:
        name: what to call it.
        model: ``{"name": ..., **settings}``; a key of :data:`mer_lab.experiments.MODELS`, of the baselines,
            or of :data:`mer_lab.models.SYSTEMS`, whose settings replace those of its preset.
        corpus: ``"staged"`` or a corpus folder; ``staged`` holds settings of the Staged corpus.
        scheme: another label scheme of the corpus.
        fold: ``"session=5"``: that session for the test, the next for validation, the rest for training.
        audio: ``{"name": extractor, **settings}`` or ``{"attached": name}``; empty for none.
        text: ``{"name": "words", "width": 64, "min_count": 1, "drop": 0.1, "glove": path}``,
            ``{"name": "pretrained", "encoder": name or path, ...}`` (with ``"pool": true`` the mean and the
            maximum over the tokens, one vector an utterance), or, for an encoder that learns,
            ``{"name": "tokens", "encoder": ...}``; empty for none.
        encoder: settings of the network that reads the frames: ``{"name": "conv", ...}``, its ``augment`` a
            table of its own; ``{"name": "mix", "layers": 7}`` for several frozen layers side by side; or
            ``{"name": "pretrained", "encoder": name or path, "train_layers": 2, ...}``, which reads the
            waveform or tokens and learns; empty for none. A system reads two channels:
            ``{"audio": {...}, "text": {...}}``.
        start: a saved system to go on with, folder or name on the hub (:mod:`mer_lab.finetuning`): its
            features, vocabulary, encoders and weights are taken as they are; empty to begin anew.
        start_weights: digest of those weights, where it is a folder: they decide the result, not its path.
        train: how it is trained; its ``monitor`` is also the score that a summary leads with.
    """

    name: str
    model: dict
    corpus: str = "staged"
    staged: dict = field(default_factory=dict)
    scheme: str = ""
    fold: str = ""
    audio: dict = field(default_factory=dict)
    text: dict = field(default_factory=dict)
    encoder: dict = field(default_factory=dict)
    start: str = ""
    start_weights: str = ""
    train: TrainConfig = field(default_factory=TrainConfig)
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def hash(self) -> str:
        """Ten hex digits that change with anything that could change the result, seeds aside."""
        spec = asdict(self)
        del spec["name"], spec["seeds"]
        if revision := REVISIONS.get(self.model.get("name", "")):
            spec["revision"] = revision
        weights = spec.pop("start_weights")
        if weights:
            spec["start"] = weights
        if not self.start:
            del spec["start"]
        if not self.fold:
            del spec["fold"]  # as before there were folds: recorded results keep their hash
        if self.train.target == "label":
            del spec["train"]["target"]
        if not self.train.modality_dropout:
            del spec["train"]["modality_dropout"]
        if not self.train.contrastive:
            del spec["train"]["contrastive"], spec["train"]["temperature"]
        return digest(json.dumps(spec, sort_keys=True), length=10)

    def to_toml(self) -> str:
        """The recipe as TOML; :meth:`from_toml` reads it back."""
        return tomli_w.dumps({k: v for k, v in asdict(self).items() if v not in ({}, "")})

    @classmethod
    def from_toml(cls, text: str, where: str = "the recipe") -> Recipe:
        """Read a recipe.

        Raises:
            MerLabError: not TOML, an unknown or a missing setting.
        """
        try:
            spec = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise MerLabError(f"{where}: not valid TOML: {error}.") from None
        train = spec.pop("train", {})
        for known, given, part in ((cls, spec, ""), (TrainConfig, train, " of [train]")):
            names = [f.name for f in fields(known)]
            if unknown := [k for k in given if k not in names]:
                raise MerLabError(
                    f"{where}: unknown setting {unknown[0]!r}{part}; known are {', '.join(names)}."
                )
        if missing := [k for k in ("name", "model") if k not in spec]:
            raise MerLabError(f"{where}: the setting {missing[0]!r} is missing.")
        spec["seeds"] = tuple(spec.get("seeds", (0, 1, 2)))
        try:
            return cls(**spec, train=TrainConfig(**train))
        except TypeError as error:
            raise MerLabError(f"{where}: {error}.") from None


@dataclass(frozen=True)
class Result:
    """What a recipe gave.

    Attributes:
        validation, test: scores a seed (see :func:`mer_lab.metrics.scores`); with those of validation the
            epochs, their seconds, and how many parameters were learnt.
        predictions: test predictions ``(seeds, U)``, class indices or scores, in the order of ``utterances``.
        provenance: device, versions, git commit, seconds.
        truth: ``label``, ``dialogue`` and ``cue`` of each utterance where the corpus is the built-in one;
            empty for real corpora, whose labels are not ours to hand on.
        probabilities: of each seed, as :func:`pack` writes them; empty for runs without a folder.
        measures: of each seed: temperature and cost (:mod:`mer_lab.cost`); empty for runs without a folder.
        coalitions: of each seed of a fusion, its test predictions with each channel alone and of its additive
            projection (:func:`mer_lab.modality.coalitions`); empty for runs without a folder.
    """

    recipe: Recipe
    labels: list[str]
    utterances: list[str]
    predictions: list[list[int]]
    validation: list[dict]
    test: list[dict]
    provenance: dict
    truth: dict[str, list] = field(default_factory=dict)
    probabilities: list[str] = field(default_factory=list)
    measures: list[dict] = field(default_factory=list)
    coalitions: list[dict[str, list[int]]] = field(default_factory=list)

    def proba(self) -> np.ndarray:
        """Test probabilities ``(seeds, U, classes)``, to three digits.

        Raises:
            MerLabError: none were kept.
        """
        if not self.probabilities:
            raise MerLabError(f"{self.recipe.name} kept no probabilities; run it into a folder.")
        shape = (len(self.utterances), len(self.labels))
        return np.stack([unpack(p, shape) for p in self.probabilities])

    def summary(self, metric: str | None = None) -> tuple[float, float]:
        """Mean and standard deviation over seeds of a test score (the recipe's monitor by default)."""
        values = [row[metric or self.recipe.train.monitor] for row in self.test]
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0

    def save(self, folder: str | Path) -> Path:
        """Write ``NAME-HASH.json``; returns its path."""
        path = Path(folder) / f"{self.recipe.name}-{self.recipe.hash}.json"
        write_text(path, json.dumps({"hash": self.recipe.hash, **asdict(self)}, separators=(",", ":")) + "\n")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a saved result.

        Raises:
            MerLabError: missing, not a result, or its recipe was edited by hand.
        """
        try:
            spec = json.loads(Path(path).read_text(encoding="utf-8"))
            recipe = spec.pop("recipe")
            recipe["train"], recipe["seeds"] = TrainConfig(**recipe["train"]), tuple(recipe["seeds"])
            stamp, result = spec.pop("hash"), cls(recipe=Recipe(**recipe), **spec)
        except FileNotFoundError:
            raise MerLabError(f"{path}: there is no such result.") from None
        except (ValueError, KeyError, TypeError):
            raise MerLabError(f"{path} is not a result of mer_lab; run its recipe again.") from None
        if stamp != result.recipe.hash:
            raise MerLabError(f"{path}: the recipe was changed after the run; run it again.")
        return result


def pack(probabilities: np.ndarray) -> str:
    """Half precision as text: 2.7 characters a number."""
    return base64.b64encode(np.asarray(probabilities, "<f2").tobytes()).decode()


def unpack(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """What :func:`pack` wrote, float32."""
    return np.frombuffer(base64.b64decode(text), "<f2").reshape(shape).astype(np.float32)


def by_cue(results: dict[str, Result]) -> pd.DataFrame:
    """Test accuracy of each result on each cue of the Staged corpus, and on all: mean over seeds, 0 to 1."""
    rows = {}
    for name, result in results.items():
        hits = pd.Series((np.array(result.predictions) == np.array(result.truth["label"])).mean(0))
        rows[name] = {**hits.groupby(result.truth["cue"]).mean(), "all": hits.mean()}
    return pd.DataFrame(rows).T


def cue_difference(a: Result, b: Result, cue: str | None = None) -> Difference:
    """Accuracy of ``a`` minus that of ``b`` on one cue (all by default), with its interval.

    Raises:
        MerLabError: they were tested on different utterances, or not on the Staged corpus.
    """
    if a.utterances != b.utterances or not a.truth:
        raise MerLabError(f"{a.recipe.name} and {b.recipe.name} have no planted test set in common.")
    chosen = np.array([cue is None or c == cue for c in a.truth["cue"]])
    label, dialogue = (np.array(a.truth[k])[chosen] for k in ("label", "dialogue"))
    pa, pb = (np.array(r.predictions)[:, chosen] for r in (a, b))
    return paired_difference("wa", label, pa, pb, dialogue)
