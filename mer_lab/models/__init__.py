"""The systems: one file each, `forward(batch, need_attention=False) -> Output`."""

from mer_lab.models.alignment import AlignmentAttention, AlignmentConfig
from mer_lab.models.bc_lstm import BCLSTM, BCLSTMConfig
from mer_lab.models.cm_roberta import CMRoberta, CMRobertaConfig
from mer_lab.models.cross_modal import CrossModalAttention, CrossModalConfig
from mer_lab.models.dialogue_rnn import DialogueRNN, DialogueRNNConfig
from mer_lab.models.fusion import FusionConfig, PooledFusion
from mer_lab.models.hcam import HCAM, HCAMConfig
from mer_lab.models.mult import MulT, MulTConfig
from mer_lab.models.output import Output
from mer_lab.models.system import System
from mer_lab.models.unimodal import UnimodalBiLSTM, UnimodalPooling, UnimodalStatistics, UnimodalTransformer

SYSTEMS: dict[str, tuple[type[System], object]] = {
    "decision-mean": (PooledFusion, FusionConfig("mean")),
    "decision-product": (PooledFusion, FusionConfig("product")),
    "decision-learned": (PooledFusion, FusionConfig("learned")),
    "early": (PooledFusion, FusionConfig("early")),
    "gated": (PooledFusion, FusionConfig("gated")),
    "low-rank": (PooledFusion, FusionConfig("low-rank")),
    "xu2019": (AlignmentAttention, AlignmentConfig()),
    "xu2019-interacting": (AlignmentAttention, AlignmentConfig(score="interacting")),
    "xu2019-delta": (
        AlignmentAttention,
        AlignmentConfig(score="dot", cell="gru", pool="attention", dropout=0.5, project=512),
    ),
    "krishna2021": (CrossModalAttention, CrossModalConfig()),
    "krishna2021-rebuild": (
        CrossModalAttention,
        CrossModalConfig(kernel=3, recurrent=1, recurrent_on="audio"),
    ),
    "mult": (MulT, MulTConfig()),
    "hcam": (HCAM, HCAMConfig()),
    "bc-lstm": (BCLSTM, BCLSTMConfig()),
    "dialogue-rnn": (DialogueRNN, DialogueRNNConfig()),
    "cm-roberta": (CMRoberta, CMRobertaConfig()),
}
"""Name of a preset → its system and settings."""
REVISIONS: dict[str, int] = {}
"""Name of a preset → 2, 3, ... once its code answers otherwise than it did: what was recorded of it before is
then not taken for its recipes' any more. ``tests/test_revisions.py`` notices such a change."""

__all__ = [
    "SYSTEMS",
    "AlignmentAttention",
    "AlignmentConfig",
    "CrossModalAttention",
    "CrossModalConfig",
    "MulT",
    "MulTConfig",
    "BCLSTM",
    "BCLSTMConfig",
    "CMRoberta",
    "CMRobertaConfig",
    "DialogueRNN",
    "DialogueRNNConfig",
    "FusionConfig",
    "HCAM",
    "HCAMConfig",
    "Output",
    "PooledFusion",
    "System",
    "UnimodalBiLSTM",
    "UnimodalPooling",
    "UnimodalStatistics",
    "UnimodalTransformer",
]
