"""The marginal likelihood of retrieval-augmented generation (Lewis et al. 2020, section 2).

Legend: b questions, n passages of a question, t target tokens, v vocabulary. All
log-probabilities are natural logarithms. A question may have fewer than n passages: an absent
passage has log prior -inf, and its token log-probabilities may be any finite number.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def token_log_probs(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Log-probability of each target token.

    logits [..., t, v], targets [..., t] (ids) -> [..., t], in float32 or wider. With label
    smoothing e each entry is (1 - e) log p(y_t) + e mean_v log p(v) (Szegedy et al. 2016).
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(
        wide.reshape(-1, wide.shape[-1]),
        targets.reshape(-1),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return -losses.view(targets.shape)


def sequence_log_probs(token_log_probs: Tensor, target_mask: Tensor) -> Tensor:
    """log p(y|x,z) = sum_t log p(y_t|x,z,y_<t).

    token_log_probs [b, n, t], target_mask [b, t] (true: a token of the answer) -> [b, n].
    """
    return token_log_probs.masked_fill(~target_mask[:, None, :], 0.0).sum(-1)


def rag_sequence_log_likelihood(
    token_log_probs: Tensor, log_prior: Tensor, target_mask: Tensor
) -> Tensor:
    """log p(y|x) = log sum_z p(z|x) prod_t p(y_t|x,z,y_<t): one passage for the whole answer.

    token_log_probs [b, n, t], log_prior [b, n], target_mask [b, t] -> [b].
    """
    return torch.logsumexp(log_prior + sequence_log_probs(token_log_probs, target_mask), dim=1)


def rag_token_log_likelihood(
    token_log_probs: Tensor, log_prior: Tensor, target_mask: Tensor
) -> Tensor:
    """log p(y|x) = sum_t log sum_z p(z|x) p(y_t|x,z,y_<t): a passage may change at each token.

    token_log_probs [b, n, t], log_prior [b, n], target_mask [b, t] -> [b].
    """
    marginal = torch.logsumexp(log_prior[:, :, None] + token_log_probs, dim=1)
    return marginal.masked_fill(~target_mask, 0.0).sum(-1)


def rag_token_next_log_probs(next_log_probs: Tensor, log_prior: Tensor) -> Tensor:
    """log sum_z p(z|x) p(y_t = v|x,z,y_<t), the distribution that RAG-Token decodes from.

    next_log_probs [b, n, v], log_prior [b, n] -> [b, v].
    """
    return torch.logsumexp(log_prior[:, :, None] + next_log_probs, dim=1)


def sequence_posterior(token_log_probs: Tensor, log_prior: Tensor, target_mask: Tensor) -> Tensor:
    """p(z|x,y) of RAG-Sequence: softmax_z(log p(z|x) + log p(y|x,z)). Shapes as above -> [b, n]."""
    return torch.softmax(log_prior + sequence_log_probs(token_log_probs, target_mask), dim=1)


def token_posterior(token_log_probs: Tensor, log_prior: Tensor, target_mask: Tensor) -> Tensor:
    """The share of each passage in the answer's tokens under RAG-Token.

    The latent passage is drawn anew for each token, so the posterior p(z|x,y_<=t) is taken for
    each token and averaged over the tokens of the answer. Shapes as above -> [b, n].
    """
    each = torch.softmax(log_prior[:, :, None] + token_log_probs, dim=1)
    weight = target_mask[:, None, :].to(each.dtype)
    return (each * weight).sum(-1) / weight.sum(-1).clamp(min=1)
