"""The words of a recording, from a speech recogniser that runs on this machine."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from mer_lab.audio import read_audio
from mer_lab.conversation import LONGEST
from mer_lab.errors import MerLabError
from mer_lab.features.encoders import explained, find_encoder, fingerprint, load_config, this_process


def transcribe(audio: str | Path | np.ndarray, recogniser: str | Path) -> str:
    """What is said in a recording, as a recogniser hears it; read it before you rely on it.

    Recognisers hear some people worse than others (Koenecke et al. 2020 measured nearly twice as many wrong
    words for Black speakers as for white ones in five commercial systems); what reads their text inherits it.

    Args:
        audio: a file, or its sound ``(N,)`` at 16 kHz.
        recogniser: any of transformers' for speech recognition, such as ``"openai/whisper-small"`` or
            ``"facebook/wav2vec2-base-960h"``: a name on the hub, in its cache, or a local folder.

    Raises:
        MerLabError: no such recogniser, one that cannot be loaded, a recording that cannot be read, or no
            word in it.
    """
    named = isinstance(audio, str | Path)
    wave = read_audio(audio, max_seconds=LONGEST) if named else np.asarray(audio, np.float32)
    folder = find_encoder(recogniser)
    recognise = _pipeline(folder, fingerprint(folder))
    # Whisper hears half a minute at a time, and what is longer only where it also says when
    options = {"return_timestamps": True} if recognise.type == "seq2seq_whisper" else {}
    text = recognise({"raw": wave, "sampling_rate": 16000}, **options)["text"].strip()
    if not text:
        raise MerLabError(
            f"{audio if named else 'the recording'}: {recogniser} hears no words in it; type what is said."
        )
    return text


@lru_cache(maxsize=2)
def _pipeline(folder: Path, content: str):
    """transformers' pipeline of a folder; kept until its ``content`` changes."""
    from transformers import pipeline

    kinds = load_config(folder).architectures or [""]
    if not kinds[0].endswith(("ForCTC", "ForConditionalGeneration", "SpeechSeq2Seq")):
        raise MerLabError(
            f"{folder}: holds {kinds[0] or 'an encoder'}, which writes no words; give a speech recogniser, "
            "such as facebook/wav2vec2-base-960h or openai/whisper-small."
        )
    with explained(folder):
        return pipeline("automatic-speech-recognition", model=str(folder), device=this_process().device)
