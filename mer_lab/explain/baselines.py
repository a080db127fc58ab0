"""What "absent" means: the inputs that an explanation starts from.

An attribution says what each input adds *compared to a baseline*, and there is no neutral one. Silence is the
obvious choice for a voice and often the worst: a feature extractor or an encoder that normalises loudness
has never heard it. Noise as loud as the voice keeps the level and takes all the rest.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn

from mer_lab.audio import read_audio
from mer_lab.errors import MerLabError
from mer_lab.explain.question import Question
from mer_lab.features.store import Extractor

AUDIO = ("mean", "noise", "silence")
TEXT = ("mask", "mean", "zero")


def resolved(question: Question, audio: str = "", text: str = "mask") -> tuple[str, str]:
    """The names of the baselines that are meant, and that these inputs have.

    Args:
        audio: ``""`` is the mean frame, or noise where the encoder hears waves.
        text: frozen vectors have no mask and no zero but their mean.

    Raises:
        MerLabError: there is no such baseline, or the mean of a wave, which is silence, is asked for.
    """
    waves = question.entrances["audio"].frames is None
    audio = audio or ("noise" if waves else "mean")
    for name, known, value in (("audio", AUDIO, audio), ("text", TEXT, text)):
        if value not in known:
            raise MerLabError(f"there is no {name} baseline {value!r}; choose {', '.join(known)}.")
    if waves and audio == "mean":
        raise MerLabError("the mean of waves is silence: choose the baseline noise, or say silence.")
    return audio, text if _table(question) is not None else "mean"


def baseline(
    question: Question, audio: str = "", text: str = "mask", extractor: Extractor | None = None,
    others: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Inputs in which nothing is said: audio ``(B, N, Ta, Da)``, text ``(B, N, Tt, Dt)``.

    Args:
        audio: "mean", the mean frame of the training set; "noise", what the extractor makes of white noise
            with the utterance's own RMS; "silence", what it makes of zeros. By default the mean, or noise
            where the encoder hears waves.
        text: "mask", the vector of the unknown word, or of a pretrained encoder's mask token; "mean", the
            mean of all word vectors; "zero". Frozen vectors of a pretrained encoder have no mask: it is the
            mean of the training set there.
        extractor: of the audio features; needed for noise and silence, except of a wave.
        others: whether the other turns of the conversation are absent too; False leaves them as they are, so
            that nothing is attributed to them.

    Raises:
        MerLabError: there is no such baseline, or features whose extractor is not known.
    """
    audio, text = resolved(question, audio, text)
    x, w = question.inputs
    if question.passed:
        empty_audio, empty_text = question.empty
    else:
        empty_audio = _audio(question, audio, extractor) * question.masks[0].unsqueeze(-1)
        empty_text = _text(question, text).expand_as(w) * question.masks[1].unsqueeze(-1)
    if not others:
        own = question.own[..., None, None]
        empty_audio, empty_text = torch.where(own, empty_audio, x), torch.where(own, empty_text, w)
    return empty_audio, empty_text


def _table(question: Question) -> nn.Embedding | None:
    """The word vectors that the text channel starts from; None for frozen vectors."""
    encoder = question.entrances["text"].encoder
    net = getattr(encoder, "net", None)
    return getattr(encoder, "embedding", None) or (net.get_input_embeddings() if net is not None else None)


def _text(question: Question, kind: str) -> Tensor:
    encoder, w, table = question.entrances["text"].encoder, question.inputs[1], _table(question)
    if kind == "zero" or table is None:  # frames are standardised: their mean is zero
        return w.new_zeros(1)
    if kind == "mean":
        return table.weight[2:].detach().mean(0)
    return table.weight[getattr(encoder, "mask_token", 1)].detach()  # 1 is the unknown word


def _audio(question: Question, kind: str, extractor: Extractor | None) -> Tensor:
    x, (B, N) = question.inputs[0], question.real.shape
    entrance = question.entrances["audio"]
    waves = entrance.frames is None  # the encoder hears the wave itself
    if kind == "mean" or (waves and kind == "silence"):
        return torch.zeros_like(x)
    rows = np.unique(question.turns[question.turns >= 0])
    empty: dict[int, Tensor] = {}
    for row in rows.tolist():
        wave = _sound(question, row, x, waves, extractor)
        nothing = np.zeros_like(wave)
        if kind == "noise":
            nothing = noise_like(wave, question.data.corpus.ids[row])
        empty[row] = torch.from_numpy(nothing[:, None] if waves else extractor(nothing)).to(x)
    out = torch.zeros_like(x)
    for b in range(B):
        for n in range(N):
            if (row := int(question.turns[b, n])) >= 0:
                frames, real = empty[row], int(question.masks[0][b, n].sum())
                out[b, n, :real] = _fitted(frames, real)
    if entrance.frames is not None:
        out = entrance.frames(out.flatten(0, 1), question.masks[0].flatten(0, 1))[0].view_as(x)
    return out


def noise_like(wave: np.ndarray, name: str = "") -> np.ndarray:
    """White noise ``(N,)`` with the RMS of ``wave (N,)``, the same for the same name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    rms = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    noise = rng.standard_normal(len(wave))
    return (noise * rms / np.sqrt(np.mean(noise**2))).astype(np.float32)


def _sound(
    question: Question, row: int, x: Tensor, waves: bool, extractor: Extractor | None
) -> np.ndarray:
    if waves:
        b, n = np.argwhere(question.turns == row)[0]
        return x[b, n, question.masks[0][b, n], 0].cpu().numpy()
    if extractor is None:
        raise MerLabError(
            "noise and silence go through the extractor of the audio features, which is not given; give it, "
            "or choose the baseline 'mean'."
        )
    corpus = question.data.corpus
    path = corpus.audio_path(corpus.ids[row])
    return read_audio(path, getattr(extractor, "rate", 16000))


def _fitted(frames: Tensor, length: int) -> Tensor:
    """As many frames as the utterance has: features that were attached or cut may have lost one."""
    if len(frames) >= length:
        return frames[:length]
    return torch.cat([frames, frames[-1:].expand(length - len(frames), -1)])
