"""Losses beside cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor


def supervised_contrastive(embedding: Tensor, label: Tensor, temperature: float = 0.1) -> Tensor:
    """Pull utterances of one class together and push the others away (Khosla et al. 2020, equation 2).

    With ``z`` the embeddings scaled to length 1, and ``P(i)`` the other utterances of i's class:
    ``mean_i  -1 / |P(i)|  sum_{p in P(i)}  log( exp(z_i z_p / tau) / sum_{a != i} exp(z_i z_a / tau) )``.

    Args:
        embedding: ``(U, D)``.
        label: ``(U,)``; utterances labelled -1 take no part, neither as anchors nor as contrast.
        temperature: ``tau``, above 0.

    Returns:
        a scalar; 0 where no two utterances share a class.
    """
    known = label >= 0
    z = torch.nn.functional.normalize(embedding[known].float(), dim=-1)
    label = label[known]
    self_ = torch.eye(len(z), dtype=torch.bool, device=z.device)
    score = (z @ z.T / temperature).masked_fill(self_, torch.finfo(z.dtype).min)
    log_p = score.log_softmax(-1)  # (U, U), over all others
    positive = (label[:, None] == label) & ~self_
    anchors = positive.any(1)
    if not anchors.any():
        return embedding.sum() * 0.0
    per_anchor = -(log_p * positive).sum(1)[anchors] / positive.sum(1)[anchors]
    return per_anchor.mean()
