"""Blocks that several systems share. Every one takes a mask, True = real."""

from mer_lab.models.layers.convolution import Augment, ConvEncoder
from mer_lab.models.layers.encoders import FrameEncoder, WordEncoder
from mer_lab.models.layers.pooling import AttentionPooling, Pooled
from mer_lab.models.layers.pretrained import LayerMix, SpeechEncoder, TextEncoder
from mer_lab.models.layers.sequence import BiLSTM, TransformerEncoder

__all__ = [
    "AttentionPooling",
    "Augment",
    "BiLSTM",
    "ConvEncoder",
    "FrameEncoder",
    "LayerMix",
    "Pooled",
    "SpeechEncoder",
    "TextEncoder",
    "TransformerEncoder",
    "WordEncoder",
]
