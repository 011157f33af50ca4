import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.measure import label
from torch.nn.functional import interpolate

from crosseai import imagestore, tables
from crosseai.imagestore import ImageStore
from crosseai.models import build, chexradinet, training, weights
from crosseai.models.augmentation import normalise
from crosseai.models.chexradinet import standardise
from crosseai.models.classifier import Targets
from crosseai.models.radiomics import FEATURES, radiomic_features
from crosseai.models.training import Settings, train

LABELS = ["Left", "Top"]
SIZE = 32
NETWORK = {"backbone": "tiny", "attention": "last", "output_stride": 16, "iterations": 2}
SETTINGS = Settings(
    epochs=3,
    batch=16,
    learning_rate=5e-3,
    optimizer="adamw",
    precision="32-true",
    threads=1,
    rotation=0.0,
    scale=0.0,
    shift=0.0,
    contrast=0.0,
    flip=False,
)


def built(**settings):
    torch.manual_seed(0)
    return build("chexradinet", LABELS, **NETWORK | settings).eval()


def targets_of(truth, guidance=None):
    none = torch.zeros(len(truth), dtype=int)
    boxes = torch.full((*truth.shape, 4), math.nan)
    return Targets(truth, none, none, none, boxes, guidance)


def test_images_are_classified_without_any_radiomics(monkeypatch):
    monkeypatch.setattr(chexradinet, "radiomic_features", None)
    model = built().double()
    images = torch.rand(3, 3, SIZE, SIZE, dtype=torch.float64)
    pooled = model.features(images).mean((2, 3))
    expected = pooled @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(images), expected)


def test_losses_are_those_of_a_loop_over_images():
    model = built(guidance_weight=0.3, temperature=0.2).double()
    torch.manual_seed(1)
    images = torch.rand(4, 3, SIZE, SIZE, dtype=torch.float64)
    truth = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1]], dtype=torch.float64)
    guidance = torch.randn(4, len(FEATURES), dtype=torch.float64)
    losses = model.losses(images, 0, targets_of(truth, guidance))

    probability = model(images).sigmoid().detach().numpy()
    terms = np.where(truth == 1, np.log(probability), np.log(1 - probability))
    assert losses["classification"].item() == pytest.approx(-terms.mean())

    state = {name: value.numpy() for name, value in model.state_dict().items()}
    pooled = model.features(images).mean((2, 3)).detach().numpy()
    vectors = []
    for image, radiomic in zip(pooled, guidance.numpy(), strict=True):
        hidden = state["radiomic_projection.0.weight"] @ radiomic
        hidden = np.maximum(hidden + state["radiomic_projection.0.bias"], 0)
        region = state["radiomic_projection.2.weight"] @ hidden
        region = region + state["radiomic_projection.2.bias"]
        seen = state["image_projection.weight"] @ image + state["image_projection.bias"]
        vectors.append([v / np.linalg.norm(v) for v in (seen, region)])
    contrastive = []
    for i, own in enumerate(vectors):
        for query, positive in (own, own[::-1]):
            negatives = [other for j in range(4) if j != i for other in vectors[j]]
            above = math.exp(query @ positive / 0.2)
            below = above + sum(math.exp(query @ other / 0.2) for other in negatives)
            contrastive.append(-math.log(above / below))
    assert losses["contrastive"].item() == pytest.approx(np.mean(contrastive))
    total = losses["classification"] + 0.3 * losses["contrastive"]
    assert losses["total"].item() == pytest.approx(total.item())


def test_before_any_guidance_the_loss_is_the_cross_entropy():
    model = built()
    losses = model.losses(torch.rand(2, 3, SIZE, SIZE), 0, targets_of(torch.ones(2, 2)))
    assert losses.keys() == {"total", "classification"}
    assert losses["total"] == losses["classification"]


def test_guidance_reaches_the_features_through_the_loss():
    model = built()
    images, truth = torch.rand(4, 3, SIZE, SIZE), torch.ones(4, 2)
    model.losses(images, 0, targets_of(truth, torch.randn(4, len(FEATURES))))[
        "contrastive"
    ].backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("features.denseblock4", "image_projection", "radiomic_projection")):
            assert parameter.grad.abs().sum() > 0, name
        if name.startswith("classifier"):
            assert parameter.grad is None


@pytest.mark.parametrize(
    ("epochs", "iterations", "expected"),
    [
        (20, 3, [5, 10, 15]),
        (10, 2, [4, 7]),
        (4, 9, [1, 2, 3]),  # more than there are epochs after the first
        (50, 49, list(range(1, 50))),
        (20, 0, []),
        (1, 3, []),
    ],
)
def test_regions_are_found_at_even_distances_after_a_part_without(
    monkeypatch, epochs, iterations, expected
):
    monkeypatch.setattr(chexradinet, "radiomic_features", lambda *_: dict.fromkeys(FEATURES, 0.0))
    model = built(iterations=iterations)
    pixels = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    shape = len(model.classifier.weight[0]), 2, 2
    with torch.no_grad():
        found = [
            model.guide(epoch / epochs, pixels, lambda rows: torch.rand(len(rows), *shape))
            for epoch in range(epochs)
        ]
    assert [epoch for epoch in range(epochs) if found[epoch] is not None] == expected


def test_guidance_measures_the_largest_region_of_the_most_probable_labels_map():
    model = built(region_threshold=0.6)
    torch.manual_seed(2)
    channels = len(model.classifier.weight[0])
    features = torch.rand(70, channels, 1, 1) * torch.rand(70, channels, 4, 4)  # two batches
    model.classifier.bias.data.zero_()
    pixels = torch.randint(0, 256, (70, 17, 17), dtype=torch.uint8)
    with torch.no_grad():
        guidance = model.guide(0.5, pixels, lambda rows: features[rows])
    theta = model.classifier.weight.detach().numpy()
    vectors, labels = [], []
    for image, activation in zip(pixels.numpy(), features.numpy(), strict=True):
        labels.append((theta @ activation.mean((1, 2))).argmax())
        map = sum(weight * part for weight, part in zip(theta[labels[-1]], activation, strict=True))
        map = interpolate(torch.tensor(map)[None, None], (17, 17), mode="bilinear")[0, 0].numpy()
        zones = label(map > map.min() + 0.6 * np.ptp(map))
        mask = zones == 1 + np.bincount(zones.ravel())[1:].argmax()
        vectors.append(list(radiomic_features(image, mask).values()))
    assert set(labels) == {0, 1}
    assert guidance.dtype == torch.float32
    np.testing.assert_allclose(guidance, standardise(np.array(vectors)), atol=1e-5)


def test_standardised_features_do_not_depend_on_units_and_outliers():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(101, 4))
    vectors[:, 2] = 7 + rng.normal(size=101) * 1e-12  # constant but for rounding
    vectors[:, 3] = np.arange(101) == 5  # constant but for one image
    scaled = standardise(vectors)
    assert scaled.dtype == np.float32
    assert np.median(scaled[:, :2], 0) == pytest.approx([0, 0])
    assert np.subtract(*np.percentile(scaled[:, :2], [75, 25], 0)) == pytest.approx([1, 1])
    assert (scaled[:, 2:] == 0).all()
    np.testing.assert_allclose(standardise(vectors * 1e6 - 3), scaled, atol=1e-4)
    vectors[17, 0] = 1e9
    assert standardise(vectors)[17, 0] == 3
    assert abs(standardise(vectors) - scaled)[np.arange(101) != 17].max() < 0.1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Noisy images with a bright square whose place tells the labels."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    n = 90
    names = [f"{i:02}.png" for i in range(n)]
    pixels = rng.integers(0, 120, (n, SIZE, SIZE), "uint8")
    labels = []
    for image in pixels:
        left, top = rng.integers(0, 2, 2).astype(bool)
        x, y = rng.integers(2, 6, 2) + 16 * np.array([not left, not top])
        image[y : y + 9, x : x + 9] += 120
        labels.append([name for name, on in zip(LABELS, (left, top), strict=True) if on])
    records = pd.DataFrame({"image": names, "path": names, "patient": names, "labels": labels})
    records[["view", "official"]] = "PA", ""
    records[["width", "height"]] = SIZE
    tables.write(records, tables.RECORDS, folder / "records.parquet")
    parts = np.repeat(["train", "validation", "test"], [48, 22, 20])
    split = pd.DataFrame({"image": names, "part": parts, "fold": 0})
    tables.write(split, tables.SPLIT, folder / "split.parquet")
    imagestore.write(folder / "0.h5", names, pixels, SIZE)
    return folder


def train_fold(run, out, settings=SETTINGS, network=NETWORK):
    records, split, shards = run / "records.parquet", run / "split.parquet", [run / "0.h5"]
    train(records, split, shards, 0, LABELS, out, "chexradinet", network, settings)


def weights_of(out):
    return (out / "weights.safetensors").read_bytes()


def test_training_learns_and_the_model_is_read_as_it_was_written(run, tmp_path):
    train_fold(run, tmp_path, replace(SETTINGS, epochs=9))
    history = tables.read(tmp_path / "history.parquet", tables.HISTORY)
    assert history.contrastive.isna().tolist() == [True] * 3 + [False] * 6
    assert history.contrastive.iloc[-1] < history.contrastive.iloc[3]
    assert history.classification.iloc[-1] < 0.9 * history.classification.iloc[0]
    auc = tables.read(tmp_path / "auc.parquet", tables.AUC)
    assert (auc.auc > 0.9).all()

    model, description = weights.load(tmp_path / "weights.safetensors")
    assert (description["classifier"], description["settings"]) == ("chexradinet", NETWORK)
    predictions = tables.read(tmp_path / "predictions.parquet", tables.predictions(LABELS))
    store = ImageStore([run / "0.h5"])
    pixels = torch.stack([torch.from_numpy(store.read(name)) for name in predictions.image])
    with torch.no_grad():
        expected = model(normalise(pixels)).sigmoid()
    np.testing.assert_allclose(predictions[LABELS], expected, atol=1e-5)


def test_a_killed_training_goes_on_to_the_same_bytes(run, tmp_path, monkeypatch):
    """Of four epochs the third begins the one iteration, the fourth keeps its guidance."""
    settings, network = replace(SETTINGS, epochs=4), NETWORK | {"iterations": 1}
    train_epoch, guide, guided = training.train_epoch, training.guide, []

    def counted(fabric, model, inputs, stage, epoch, settings, guidance):
        new = guide(fabric, model, inputs, stage, epoch, settings, guidance)
        guided.append((epoch, new is not guidance))
        return new

    monkeypatch.setattr(training, "guide", counted)
    train_fold(run, tmp_path / "whole", settings, network)
    whole = [(0, False), (1, False), (2, True), (3, False)]
    assert guided == whole
    for epoch in (2, 3):

        def killed(*args, epoch=epoch):
            if args[6] == epoch:
                raise KeyboardInterrupt
            return train_epoch(*args)

        out = tmp_path / f"killed{epoch}"
        with monkeypatch.context() as patch:
            patch.setattr(training, "train_epoch", killed)
            with pytest.raises(KeyboardInterrupt):
                train_fold(run, out, settings, network)
        guided.clear()
        train_fold(run, out, settings, network)
        assert guided == whole[epoch:]
        assert weights_of(out) == weights_of(tmp_path / "whole")


def test_without_iterations_it_is_a_plain_classifier(run, tmp_path):
    train_fold(run, tmp_path, network=NETWORK | {"iterations": 0})
    history = tables.read(tmp_path / "history.parquet", tables.HISTORY)
    assert history.contrastive.isna().all()
    assert history.loss.tolist() == history.classification.tolist()
