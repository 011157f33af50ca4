"""The losses of the SCALP classifier (Jaiswal et al. 2021)."""

import torch
from torch.nn.functional import normalize

__all__ = ["patient_contrastive"]


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
    precision = torch.promote_types(embedding.dtype, torch.float32)  # half is too coarse
    unit = normalize(embedding.to(precision), dim=1)  # [2Q, D]
    query, positive = unit[0::2], unit[1::2]  # [Q, D]
    similarity = query @ unit.T / temperature  # [Q, 2Q]
    negative = (group[0::2, None] == group) & (patient[0::2, None] != patient)  # [Q, 2Q]
    towards = (query * positive).sum(1) / temperature  # [Q]
    away = similarity.masked_fill(~negative, -torch.inf).logsumexp(1)  # [Q]
    if positive_in_denominator:
        away = torch.logaddexp(away, towards)
    counts = negative.any(1) & (label[0::2] >= 0)
    return (away - towards)[counts].sum() / counts.sum().clamp(min=1)
