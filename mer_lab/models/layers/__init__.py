"""Blocks that several systems share. Every one takes a mask, True = real."""

from mer_lab.models.layers.attention import Attended, MultiHeadAttention
from mer_lab.models.layers.conversation import Conversation
from mer_lab.models.layers.convolution import Augment, ConvEncoder
from mer_lab.models.layers.encoders import FrameEncoder, Projection, WordEncoder
from mer_lab.models.layers.places import Nearness, place, relative
from mer_lab.models.layers.pooling import AttentionPooling, Pooled, StatisticsPooling, masked_softmax
from mer_lab.models.layers.pretrained import LayerMix, SpeechEncoder, TextEncoder
from mer_lab.models.layers.sequence import BiGRU, BiLSTM, TransformerEncoder, positions

__all__ = [
    "Attended",
    "AttentionPooling",
    "Augment",
    "BiGRU",
    "BiLSTM",
    "ConvEncoder",
    "Conversation",
    "FrameEncoder",
    "LayerMix",
    "MultiHeadAttention",
    "Nearness",
    "Pooled",
    "Projection",
    "SpeechEncoder",
    "StatisticsPooling",
    "TextEncoder",
    "TransformerEncoder",
    "WordEncoder",
    "masked_softmax",
    "place",
    "positions",
    "relative",
]
