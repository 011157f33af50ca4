import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from crosseai.errors import InputError
from crosseai.models import build
from crosseai.models.classifier import Targets
from crosseai.models.losses import nt_xent, patient_contrastive

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


def nt_xent_by_hand(embedding, temperature, positive_in_denominator):
    """Each row of a pair asks for the other among all other rows of the batch, term by term."""
    rows = [[float(x) for x in row] for row in embedding]

    def exponential(i, j):
        dot = math.fsum(x * y for x, y in zip(rows[i], rows[j], strict=True))
        return math.exp(dot / math.hypot(*rows[i]) / math.hypot(*rows[j]) / temperature)

    terms = []
    for i in range(len(rows)):
        partner = i + 1 if i % 2 == 0 else i - 1
        others = [j for j in range(len(rows)) if j != i]
        if not positive_in_denominator:
            others.remove(partner)
        if len(rows) > 2:
            below = math.fsum(exponential(i, j) for j in others)
            terms.append(-math.log(exponential(i, partner) / below))
    return math.fsum(terms) / max(len(terms), 1)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("rows", [2, 4, 12])
def test_nt_xent_equals_its_equation_written_out(rows, temperature, positive):
    for seed in range(3):
        loss = nt_xent(embeddings(seed, rows), temperature, positive)
        expected = nt_xent_by_hand(embeddings(seed, rows), temperature, positive)
        assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rows", [2, 6])
@pytest.mark.parametrize("positive", [True, False])
def test_gradient_of_nt_xent_agrees_with_finite_differences(rows, positive):
    embedding = embeddings(0, rows).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: nt_xent(e, 0.5, positive), embedding)


def test_nt_xent_is_the_cross_entropy_of_the_published_code():
    """Two views, their similarities side by side, the diagonal as the class to be found."""
    embedding = embeddings(4, 10)
    unit = torch.nn.functional.normalize(embedding)
    views = unit[0::2], unit[1::2]  # [5, 7] each
    within = [(v @ v.T / 0.5).fill_diagonal_(-math.inf) for v in views]
    across = views[0] @ views[1].T / 0.5
    scores = torch.cat([torch.cat([across, within[0]], 1), torch.cat([within[1], across.T], 1)])
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(10))
    torch.testing.assert_close(nt_xent(embedding), expected)


CODE = {"pairs": "patient", "projection": 5, "positive_in_denominator": True}


def test_the_published_code_s_loss_contrasts_what_its_head_projects():
    torch.manual_seed(0)
    settings = {"backbone": "tiny", "temperature": 0.3} | CODE
    model = build("scalp", ["a", "b"], **settings).train()
    images = torch.randn(12, 3, 32, 32)
    truth = (torch.rand(12, 2) > 0.5).float()
    losses = model.losses(images, 0, Targets(truth, LABEL, PATIENT, GROUP, NO_BOXES))
    pooled = model.features(images).mean((2, 3))
    first, second = (layer.weight for layer in model.projection if hasattr(layer, "in_features"))
    assert first.shape == (len(pooled[0]), len(pooled[0]))
    assert second.shape == (5, len(pooled[0]))

    def standardised(x):
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()

    projected = standardised(standardised(pooled @ first.T).relu() @ second.T)
    contrastive = nt_xent_by_hand(projected.detach(), 0.3, True)
    assert losses["contrastive"].item() == pytest.approx(contrastive, rel=1e-4)
    classification = binary_cross_entropy_with_logits(model(images), truth)
    torch.testing.assert_close(losses["classification"], classification)
    torch.testing.assert_close(
        losses["total"], 0.8 * losses["classification"] + 0.2 * losses["contrastive"]
    )


def test_the_projection_changes_neither_the_logits_nor_the_backbone_s_start():
    models = []
    for own in ({}, CODE):
        torch.manual_seed(0)
        models.append(build("scalp", ["a"], backbone="tiny", **own).eval())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(models[0](images), models[1](images))
    assert not any("projection" in name for name in models[0].state_dict())


def test_unknown_pairs_are_refused():
    with pytest.raises(InputError, match=r"pairs: 'image'.*'patient'"):
        build("scalp", ["a"], backbone="tiny", pairs="image")
