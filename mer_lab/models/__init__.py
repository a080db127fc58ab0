"""The systems: one file each, `forward(batch, need_attention=False) -> Output`."""

from mer_lab.models.alignment import AlignmentAttention, AlignmentConfig
from mer_lab.models.output import Output
from mer_lab.models.system import System
from mer_lab.models.unimodal import UnimodalBiLSTM, UnimodalPooling, UnimodalStatistics, UnimodalTransformer

SYSTEMS: dict[str, tuple[type[System], object]] = {
    "xu2019": (AlignmentAttention, AlignmentConfig()),
    "xu2019-interacting": (AlignmentAttention, AlignmentConfig(score="interacting")),
    "xu2019-delta": (
        AlignmentAttention,
        AlignmentConfig(score="dot", cell="gru", pool="attention", dropout=0.5, project=512),
    ),
}
"""Name of a preset → its system and settings."""

__all__ = [
    "SYSTEMS",
    "AlignmentAttention",
    "AlignmentConfig",
    "Output",
    "System",
    "UnimodalBiLSTM",
    "UnimodalPooling",
    "UnimodalStatistics",
    "UnimodalTransformer",
]
