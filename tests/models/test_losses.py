import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from crosseai.models import build
from crosseai.models.classifier import Targets
from crosseai.models.losses import patient_contrastive

#: Six queries and their positives: two groups; the last query has no label.
LABEL = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, -1, -1])
PATIENT = torch.tensor([5, 5, 6, 6, 5, 5, 7, 7, 7, 7, 8, 8])  # group 1 has one patient alone
GROUP = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
NO_BOXES = torch.full((12, 2, 4), torch.nan)


def embeddings(seed=0, rows=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 7, generator=generator, dtype=torch.float64)


def by_hand(embedding, label, patient, group, temperature, positive_in_denominator):
    """SCALP's equation 1, term by term."""

    def similarity(a, b):
        dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))

    terms = []
    for q in range(0, len(label), 2):
        if label[q] < 0:
            continue
        exponentials = [
            math.exp(similarity(embedding[q], embedding[i]) / temperature)
            for i in range(len(label))
            if group[i] == group[q] and patient[i] != patient[q]
        ]
        if not exponentials:
            continue
        positive = math.exp(similarity(embedding[q], embedding[q + 1]) / temperature)
        below = sum(exponentials) + (positive if positive_in_denominator else 0)
        terms.append(-math.log(positive / below))
    return sum(terms) / len(terms) if terms else 0.0


@pytest.mark.parametrize("infonce", [False, True])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_equals_equation_1_written_out(infonce, temperature):
    arguments = (LABEL, PATIENT, GROUP, temperature, infonce)
    for seed in range(5):
        loss = patient_contrastive(embeddings(seed), *arguments)
        # Computed in single precision at the least.
        assert float(loss) == pytest.approx(by_hand(embeddings(seed), *arguments), rel=1e-5)


def test_double_precision_is_kept():
    """Single precision is the least, so that half-precision activations are safe."""
    loss = patient_contrastive(embeddings(), LABEL, PATIENT, GROUP)
    assert loss.dtype == torch.float64
    assert patient_contrastive(embeddings().half(), LABEL, PATIENT, GROUP).dtype == torch.float32


@pytest.mark.parametrize("infonce", [False, True])
def test_scale_of_an_embedding_does_not_count(infonce):
    embedding, factor = embeddings(), torch.rand(12, 1, dtype=torch.float64) + 0.1
    expected = patient_contrastive(embedding, LABEL, PATIENT, GROUP, 0.5, infonce)
    scaled = patient_contrastive(embedding * factor, LABEL, PATIENT, GROUP, 0.5, infonce)
    torch.testing.assert_close(scaled, expected, rtol=1e-5, atol=1e-6)


def test_a_query_without_label_or_without_negatives_counts_nothing():
    embedding = embeddings()
    of_all = patient_contrastive(embedding, LABEL, PATIENT, GROUP)
    of_first_group = patient_contrastive(embedding[:6], LABEL[:6], PATIENT[:6], GROUP[:6])
    assert float(of_all) == pytest.approx(float(of_first_group), rel=1e-6)
    nothing = patient_contrastive(embedding[6:], LABEL[6:], PATIENT[6:], GROUP[6:])
    assert float(nothing) == 0


@pytest.mark.parametrize("infonce", [False, True])
def test_gradient_of_queries_that_do_not_count_is_zero_not_nan(infonce):
    embedding = embeddings().requires_grad_()
    patient_contrastive(embedding, LABEL, PATIENT, GROUP, 0.5, infonce).backward()
    assert torch.isfinite(embedding.grad).all()
    assert (embedding.grad[:6].abs().sum(1) > 0).all()
    assert not embedding.grad[6:].any()


@pytest.mark.parametrize("infonce", [False, True])
def test_gradient_agrees_with_finite_differences(infonce):
    def loss(embedding):
        return patient_contrastive(embedding, LABEL, PATIENT, GROUP, 0.5, infonce)

    assert torch.autograd.gradcheck(loss, embeddings().requires_grad_())


def test_pulls_the_positive_near_and_pushes_negatives_away():
    apart = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3]]
    near = torch.eye(4, dtype=torch.float64)[[0, 0, 2, 2]]
    mixed = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 1]]
    of = [
        float(patient_contrastive(e, torch.zeros(4), torch.tensor([0, 0, 1, 1]), torch.zeros(4)))
        for e in (near, apart, mixed)
    ]
    assert of[0] < of[1] < of[2]


@pytest.mark.parametrize("share", [0.8, 0.3])
def test_the_classifier_weighs_its_two_losses(share):
    torch.manual_seed(0)
    model = build("scalp", ["a", "b"], backbone="tiny", classification_weight=share).eval()
    images = torch.randn(12, 3, 32, 32)
    truth = (torch.rand(12, 2) > 0.5).float()
    losses = model.losses(images, 0, Targets(truth, LABEL, PATIENT, GROUP, NO_BOXES))
    pooled = model.features(images).mean((2, 3))
    classification = binary_cross_entropy_with_logits(model(images), truth)
    contrastive = patient_contrastive(pooled, LABEL, PATIENT, GROUP)
    torch.testing.assert_close(losses["classification"], classification)
    torch.testing.assert_close(losses["contrastive"], contrastive)
    torch.testing.assert_close(losses["total"], share * classification + (1 - share) * contrastive)


def test_a_full_classification_weight_leaves_the_contrastive_loss_out():
    model = build("scalp", ["a", "b"], backbone="tiny", classification_weight=1).eval()
    losses = model.losses(
        torch.randn(12, 3, 32, 32), 0, Targets(torch.zeros(12, 2), LABEL, PATIENT, GROUP, NO_BOXES)
    )
    assert losses.keys() == {"total", "classification"}
    assert losses["total"] is losses["classification"]
