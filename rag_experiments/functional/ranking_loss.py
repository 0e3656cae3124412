"""Losses that teach an encoder which passages to rank first.

Legend: b questions, c candidate passages. Scores are inner products divided by a temperature;
all logarithms are natural.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(scores: Tensor, gold: Tensor) -> Tensor:
    """Mean over questions of -log exp(s+) / (exp(s+) + sum over the others of exp(s)): [].

    scores [b, c]; gold [b, c], true for the passages of a question that are right. Each gold
    passage is set against all that are not gold, never against another gold one, and a question
    with several has their mean. Every question has one at least; without any other passage its
    loss is 0. Van den Oord et al. 2018 (https://arxiv.org/abs/1807.03748); Karpukhin et al.,
    EMNLP 2020, equation 2.
    """
    others = scores.masked_fill(gold, -torch.inf).logsumexp(1, keepdim=True)  # [b, 1]
    each = torch.logaddexp(scores, others) - scores
    return (each.masked_fill(~gold, 0.0).sum(1) / gold.sum(1)).mean()


def distillation_loss(scores: Tensor, teacher: Tensor) -> Tensor:
    """Mean over questions of KL(teacher || softmax(scores)) in nats: [].

    scores [b, c], -inf for passages that a question does not have; teacher [b, c], whose rows sum
    to one, 0 there. Izacard et al. 2022 (https://arxiv.org/abs/2208.03299). Shi et al. 2023
    (https://arxiv.org/abs/2301.12652) take the divergence the other way round.
    """
    # What the teacher gives nothing to counts nothing, be it as unlikely as it may.
    log_student = torch.log_softmax(scores, dim=1).masked_fill(teacher == 0, 0.0)
    return F.kl_div(log_student, teacher, reduction="batchmean")
