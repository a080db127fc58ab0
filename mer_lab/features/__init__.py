"""From a wave or a sentence to a sequence of numbers."""

from mer_lab.audio import duration, read_audio, resample, write_audio
from mer_lab.features.prosody import (
    PROSODY_NAMES,
    PROSODY_STATISTICS,
    Prosody,
    energy_db,
    prosody_statistics,
    track_pitch,
)
from mer_lab.features.spectral import MFCC, LogMel, LowLevel34, Waveform
from mer_lab.features.words import Vocabulary, load_glove, tokenise

BUILT_IN = {e.name: e for e in (Prosody, LogMel, MFCC, LowLevel34)}
"""Extractors of audio that need no pretrained weights, by name."""

__all__ = [
    "BUILT_IN",
    "MFCC",
    "PROSODY_NAMES",
    "PROSODY_STATISTICS",
    "LogMel",
    "LowLevel34",
    "Prosody",
    "Vocabulary",
    "Waveform",
    "duration",
    "energy_db",
    "load_glove",
    "prosody_statistics",
    "read_audio",
    "resample",
    "tokenise",
    "track_pitch",
    "write_audio",
]
