"""The classifiers' losses: contrastive (SCALP), balanced (Wang et al.), by patch (Li et al.)."""

import math

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, normalize

__all__ = [
    "balanced_cross_entropy",
    "box_cross_entropy",
    "noisy_or",
    "nt_xent",
    "patient_contrastive",
]


def patient_contrastive(
    embedding: torch.Tensor,
    label: torch.Tensor,
    patient: torch.Tensor,
    group: torch.Tensor,
    temperature: float = 0.5,
    positive_in_denominator: bool = False,
) -> torch.Tensor:
    """Patient-based contrastive loss, averaged over the queries that have a negative.

    Row 2i is a query and row 2i + 1 its positive: another image of the same patient with the same
    label. Its negatives are the rows of its group that belong to other patients; a group shares
    one label. With cosine similarity s and temperature tau, SCALP's equation 1 is

        -log(exp(s(q, positive) / tau) / sum over negatives exp(s(q, negative) / tau)),

    which may be negative, since the positive is not among the terms below the line; InfoNCE adds
    it there.

    Parameters
    ----------
    embedding : Tensor [2Q, D]
    label : Tensor [2Q] int
        The label that the row was drawn for; -1 has none and makes no query.
    patient, group : Tensor [2Q] int
    temperature : float
    positive_in_denominator : bool
        InfoNCE instead of equation 1.

    Returns
    -------
    Tensor []
        Zero if no query has a negative.
    """
    unit = _unit(embedding)  # [2Q, D]
    negative = (group[0::2, None] == group) & (patient[0::2, None] != patient)  # [Q, 2Q]
    negative &= label[0::2, None] >= 0
    return _contrast(unit[0::2], unit[1::2], unit, negative, temperature, positive_in_denominator)


def nt_xent(
    embedding: torch.Tensor, temperature: float = 0.5, positive_in_denominator: bool = True
) -> torch.Tensor:
    """NT-Xent (Chen et al., ICML 2020), the contrastive loss of SCALP's published code.

    Rows 2i and 2i + 1 are a pair. Every row is a query, its partner the positive and all other
    rows of the batch its negatives; labels and patients do not count.

    Parameters
    ----------
    embedding : Tensor [2Q, D]
    temperature : float
    positive_in_denominator : bool
        As published; without it the denominator holds the negatives only.

    Returns
    -------
    Tensor []
        Zero if there is but one pair.
    """
    unit = _unit(embedding)  # [2Q, D]
    positive = unit.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)  # [2Q, D]
    pair = torch.arange(len(unit), device=unit.device) // 2
    negative = pair[:, None] != pair  # [2Q, 2Q]
    return _contrast(unit, positive, unit, negative, temperature, positive_in_denominator)


def _unit(embedding: torch.Tensor) -> torch.Tensor:
    """Rows of length 1; half precision is too coarse."""
    return normalize(embedding.to(torch.promote_types(embedding.dtype, torch.float32)), dim=1)


def _contrast(
    query: torch.Tensor,
    positive: torch.Tensor,
    others: torch.Tensor,
    negative: torch.Tensor,
    temperature: float,
    positive_in_denominator: bool,
) -> torch.Tensor:
    """Contrast unit rows [Q, D] with their positives and with what is `negative` [Q, N] of others.

    Averaged over the queries that have a negative.
    """
    similarity = query @ others.T / temperature  # [Q, N]
    towards = (query * positive).sum(1) / temperature  # [Q]
    away = similarity.masked_fill(~negative, -torch.inf).logsumexp(1)  # [Q]
    if positive_in_denominator:
        away = torch.logaddexp(away, towards)
    counts = negative.any(1)
    return (away - towards)[counts].sum() / counts.sum().clamp(min=1)


def balanced_cross_entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cross-entropy that gives a batch's positives and negatives equal weight.

    Wang et al. (CVPR 2017): P and N being the ones and zeros of all labels of the batch, a
    positive weighs ``(P + N) / P`` and a negative ``(P + N) / N``. Averaged over the P + N terms,
    where the paper takes the sum: the mean over the positives plus the mean over the negatives.

    Parameters
    ----------
    logits, truth : Tensor [B, L]

    Returns
    -------
    Tensor []
        A batch without positives, or without negatives, has only the other mean.
    """
    positives = truth.sum()
    negatives = truth.numel() - positives
    share = torch.where(truth > 0, positives, negatives) / truth.numel()  # [B, L], never 0
    return binary_cross_entropy_with_logits(logits, truth, 1 / share)


def noisy_or(logits: torch.Tensor, lowest_factor: float) -> torch.Tensor:
    """Logit of an image being positive, which it is if any of its patches is.

    With p_j the probability of patch j, and factors rescaled from [0, 1] to [b, 1] so that no
    product underflows (Li et al., CVPR 2018),

        p = 1 - prod_j (b + (1 - b) (1 - p_j)),

    which lies between 0 and 1 - b^(number of patches).

    Parameters
    ----------
    logits : Tensor [..., h, w]
        Of the patches.
    lowest_factor : float
        b, between 0 and 1.

    Returns
    -------
    Tensor [...]
        Finite for any finite logits.
    """
    log_hit = (logsigmoid(logits) + math.log1p(-lowest_factor)).flatten(-2)  # log (1 - b) p_j
    log_none = torch.log1p(-log_hit.exp()).sum(-1)  # log of the product
    # Where p is so small that the product rounds to 1, it is the sum of the (1 - b) p_j.
    tiny = log_none > -1e-6
    log_any = torch.log(-torch.expm1(torch.where(tiny, -1, log_none)))
    return torch.where(tiny, log_hit.logsumexp(-1), log_any) - log_none


def box_cross_entropy(
    logits: torch.Tensor, inside: torch.Tensor, lowest_factor: float
) -> torch.Tensor:
    """Negative logarithm of the probability of a box (Li et al., CVPR 2018).

        p = prod_inside (b + (1 - b) p_j) * prod_outside (b + (1 - b) (1 - p_j))

    Parameters
    ----------
    logits : Tensor [..., h, w]
        Of the patches.
    inside : Tensor [..., h, w] bool
        Patches that the box touches.
    lowest_factor : float
        b, between 0 and 1; see `noisy_or`.

    Returns
    -------
    Tensor [...]
    """
    wrong = torch.where(inside, -logits, logits).sigmoid()  # of a patch being what it is not
    return -torch.log1p((lowest_factor - 1) * wrong).sum((-2, -1))
