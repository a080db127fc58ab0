"""From a recipe's tables of settings to features, and to the encoder that stands before the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import nn

from mer_lab.corpora import Corpus
from mer_lab.errors import MerLabError
from mer_lab.features import BUILT_IN, Vocabulary, Waveform, load_glove
from mer_lab.features.pretrained import PretrainedSpeech, PretrainedText
from mer_lab.features.store import Extractor, FeatureStore, attached
from mer_lab.models.layers import (
    Augment,
    ConvEncoder,
    FrameEncoder,
    LayerMix,
    Projection,
    SpeechEncoder,
    TextEncoder,
    WordEncoder,
)
from mer_lab.ragged import Ragged

AUDIO = BUILT_IN | {"pretrained": PretrainedSpeech, "waveform": Waveform}


def read_audio_features(
    spec: dict, corpus: Corpus, wrap: Callable[[Extractor], Extractor] | None = None
) -> Ragged:
    """Frames of every utterance: ``{"name": extractor, **settings}`` or ``{"attached": name}``.

    Args:
        wrap: makes another extractor of the one that the settings name, such as one that hears noise.

    Raises:
        MerLabError: no such features or setting, or attached ones to wrap.
    """
    options = dict(spec)
    if "attached" in options:
        if wrap is not None:
            raise MerLabError(
                f"the audio features {options['attached']!r} are attached, without the sound that they were "
                "made of: only features that mer_lab extracts itself can be extracted from degraded audio."
            )
        return attached(corpus, options["attached"])
    name = options.pop("name", None)
    if name not in AUDIO:
        raise MerLabError(
            f"there are no audio features {name!r}; choose one of {', '.join(AUDIO)}, or attached ones."
        )
    try:
        extractor = AUDIO[name](**options)
    except TypeError as error:
        raise MerLabError(f"audio features {name}: {error}.") from None
    return FeatureStore().get(corpus, wrap(extractor) if wrap else extractor)


def read_text_features(
    spec: dict, corpus: Corpus, train: Corpus
) -> tuple[Ragged, Callable[[], nn.Module] | None]:
    """Vectors, token numbers or word indices of every utterance; for words also what builds their encoder.

    Raises:
        MerLabError: no such features or setting.
    """
    options = {"name": "words", **spec}
    name = options.pop("name")
    if name in ("pretrained", "tokens"):
        pool = options.pop("pool", False)
        try:
            extractor = PretrainedText(**options)
        except TypeError as error:
            raise MerLabError(f"text features {name}: {error}.") from None
        if name == "pretrained":
            frames = FeatureStore().get(corpus, extractor)
            return (pooled(frames) if pool else named(frames, extractor)), None
        numbers = extractor.numbers(corpus.table["text"].tolist())
        sequences = [np.array(n, np.int64)[:, None] for n in numbers]
        meta = {"name": name, "encoder": extractor.encoder}
        return Ragged.from_sequences(sequences, corpus.ids, meta), None
    if name != "words":
        raise MerLabError(f"there are no text features {name!r}; choose words, pretrained or tokens.")
    vocabulary = Vocabulary.build(train.table["text"], options.get("min_count", 1))
    index = Ragged.from_sequences(
        [vocabulary.encode(t) for t in corpus.table["text"]], corpus.ids, {"name": "words"}
    )
    width, vectors = options.get("width", 64), None
    if "glove" in options:
        vectors, _ = load_glove(options["glove"], vocabulary)
        width = vectors.shape[1]
    known, drop = list(vocabulary.words), options.get("drop", 0.0)
    return index, lambda: WordEncoder(len(vocabulary), width, vectors, drop, known)


def named(frames: Ragged, extractor: PretrainedText) -> Ragged:
    """The same vectors, and whose tokens they are of, so that an explanation can put words together again."""
    whose = {} if extractor.words else {"encoder": extractor.encoder}
    return replace(frames, meta=frames.meta | whose)


def pooled(frames: Ragged) -> Ragged:
    """Mean and maximum of each utterance's frames: one step ``(1, 2 D)`` an utterance.

    For systems that start from one vector an utterance, as most on conversations do: frozen vectors of a
    pretrained encoder have already mixed their steps, and each epoch costs a twentieth.
    """
    rows = [np.concatenate([x.mean(0), x.max(0)])[None] for x in (frames[k] for k in range(len(frames)))]
    return Ragged.from_sequences(rows, frames.ids, frames.meta | {"name": "pooled"})


def build_encoder(spec: dict, channel: str, frames: Ragged) -> nn.Module:
    """The network between a channel's features and the model; what is fitted, is fitted to ``frames``.

    Args:
        spec: ``{"name": "conv" | "mix" | "project" | "pretrained", **settings}``; empty for frames that are
            standardised and nothing else.
        channel: ``"audio"`` or ``"text"``.
        frames: of the training split.

    Raises:
        MerLabError: no such encoder, or one that does not read these features.
    """
    options = dict(spec)
    kind = options.pop("name", "")
    name, learns = frames.meta.get("name"), kind == "pretrained"
    # the same number is another word to another encoder
    fits = name in ("waveform", "tokens") and frames.meta.get("encoder") in (None, options.get("encoder"))
    if (learns and not fits) or (name == "tokens" and not learns):
        raise MerLabError(
            f"encoder {kind or 'none'!r} cannot read the features {name!r}: 'pretrained' takes the waveform, "
            "or the tokens that were made for the same encoder, which nothing else takes."
        )
    if learns:
        return (SpeechEncoder if channel == "audio" else TextEncoder)(**options)
    if kind == "conv":
        augment = Augment(**options.pop("augment")) if "augment" in options else None
        return ConvEncoder(frames.width, augment=augment, **options).fit(frames)
    if kind in ("mix", "project"):
        return {"mix": LayerMix, "project": Projection}[kind](frames.width, **options).fit(frames)
    if kind:
        raise MerLabError(f"there is no encoder {kind!r}; choose conv, mix, project or pretrained, or none.")
    return FrameEncoder(frames.width).fit(frames)
