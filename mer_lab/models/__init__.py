"""The systems: one file each, `forward(batch, need_attention=False) -> Output`."""

from mer_lab.models.output import Output
from mer_lab.models.unimodal import UnimodalBiLSTM, UnimodalPooling, UnimodalStatistics, UnimodalTransformer

__all__ = ["Output", "UnimodalBiLSTM", "UnimodalPooling", "UnimodalStatistics", "UnimodalTransformer"]
