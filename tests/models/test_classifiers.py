"""What every classifier does: learn, be stored, start from weights, stay in single precision."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from crosseai import imagestore, tables
from crosseai.errors import InputError
from crosseai.imagestore import ImageStore
from crosseai.models import CLASSIFIERS, build, weights
from crosseai.models.augmentation import normalise
from crosseai.models.training import Settings, frozen_stages, train

LABELS = ["Bright", "Dark"]
SIZE = 32
#: Classifier and settings.
MODELS = {
    "baseline": ("baseline", {}),
    "supervision": ("supervision", {"grid": 8, "recognition_channels": 16}),
    "scalp-code": (
        "scalp",
        {
            "attention": "last",
            "pairs": "patient",
            "projection": 8,
            "positive_in_denominator": True,
        },
    ),
}
TINY = {"backbone": "tiny", "output_stride": 8}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Noise with a bright square, a dark one, both or none; half of the training ones boxed."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    n = 120
    names = [f"{i:03}.png" for i in range(n)]
    pixels = rng.integers(90, 150, (n, SIZE, SIZE))
    labels, boxes = [[] for _ in names], []
    for i, name in enumerate(names):
        for label, change in zip(LABELS, (90, -90), strict=True):
            if rng.random() < 0.5:
                x, y = rng.integers(0, SIZE - 9, 2)
                pixels[i, y : y + 9, x : x + 9] += change
                labels[i].append(label)
                boxes.append((name, label, *map(float, (x, y, 9, 9))))
    records = pd.DataFrame({"image": names, "path": names, "labels": labels})
    records["patient"] = [str(i // 2) for i in range(n)]
    records[["view", "official"]] = "PA", ""
    records[["width", "height"]] = SIZE
    tables.write(records, tables.RECORDS, folder / "records.parquet")
    parts = np.repeat(["train", "validation", "test"], [70, 20, 30])
    split = pd.DataFrame({"image": names, "part": parts, "fold": 0})
    tables.write(split, tables.SPLIT, folder / "split.parquet")
    boxes = pd.DataFrame(boxes, columns=tables.BOXES.names)
    tables.write(boxes, tables.BOXES, folder / "all.parquet")
    seen = boxes.image.isin(names[:70:2])
    tables.write(boxes[seen], tables.BOXES, folder / "boxes.parquet")
    imagestore.write(folder / "0.h5", names, pixels.astype("uint8"), SIZE)
    return folder


def trained(run, out, name, **settings):
    classifier, network = MODELS[name]
    own = {"epochs": 12, "batch": 14, "learning_rate": 5e-3, "optimizer": "adamw"}
    own |= {"precision": "32-true", "threads": 1}
    own |= {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "contrast": 0.0}
    train(
        run / "records.parquet",
        run / "split.parquet",
        [run / "0.h5"],
        0,
        LABELS,
        out,
        classifier,
        TINY | network,
        Settings(**own | settings),
        run / "boxes.parquet" if CLASSIFIERS[classifier].sees_boxes else None,
    )
    return weights.load(out / "weights.safetensors")[0]


def shown(run, names):
    pixels = np.stack([ImageStore([run / "0.h5"]).read(name) for name in names])
    return normalise(torch.from_numpy(pixels))


@pytest.fixture(scope="module")
def learned(run, tmp_path_factory):
    """From a name to the folder of its training and to the model as it was stored."""

    @cache
    def of(name):
        out = tmp_path_factory.mktemp(name)
        return out, trained(run, out, name)

    return of


@pytest.mark.parametrize("name", MODELS)
def test_learns_which_squares_there_are(learned, name):
    out, _ = learned(name)
    history = tables.read(out / "history.parquet", tables.HISTORY)
    assert history.classification.iloc[-1] < 0.8 * history.classification.iloc[0]
    auc = tables.read(out / "auc.parquet", tables.AUC)
    assert (auc.auc[auc.part == "test"] > 0.9).all()


@pytest.mark.parametrize("name", MODELS)
def test_what_is_stored_predicts_what_training_predicted(learned, run, name):
    out, model = learned(name)
    predictions = tables.read(out / "predictions.parquet", tables.predictions(LABELS))
    with torch.no_grad():
        expected = model(shown(run, predictions.image)).sigmoid()
    np.testing.assert_allclose(predictions[LABELS], expected, atol=1e-5)


def test_supervision_sees_where_the_squares_are(learned, run):
    """On test images, whose boxes training did not have."""
    _, model = learned("supervision")
    boxes = tables.read(run / "all.parquet", tables.BOXES)
    boxes = boxes[boxes.image >= "090.png"]
    with torch.no_grad():
        heatmaps = model.heatmaps(shown(run, boxes.image))  # [N, 2, 8, 8]
    higher = []
    for heatmap, box in zip(heatmaps, boxes.itertuples(), strict=True):
        inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        inside[int(box.y) : int(box.y + box.h), int(box.x) : int(box.x + box.w)] = True
        inside = inside.view(8, 4, 8, 4).any(3).any(1)
        own = heatmap[LABELS.index(box.label)]
        higher.append(own[inside].mean().item() - own[~inside].mean().item())
    assert len(higher) > 20
    assert min(higher) > 0.05
    assert np.mean(higher) > 0.25


@pytest.mark.parametrize("name", MODELS)
def test_starts_from_weights_with_a_frozen_part(run, tmp_path, tiny, name):
    torch.manual_seed(3)
    start = tiny().state_dict()
    save_file(start, tmp_path / "w.safetensors")
    options = {"epochs": 1, "weights": str(tmp_path / "w.safetensors")}
    model = trained(run, tmp_path, name, **options, freeze_until="denseblock2", cache_frozen=True)
    frozen = ("conv0", "norm0", "denseblock1", "transition1", "denseblock2")
    for key, value in model.features.state_dict().items():
        if key.split(".")[0] in frozen:
            assert torch.equal(value, start[f"features.{key}"]), key
        elif f"features.{key}" in start and value.is_floating_point():
            assert not torch.equal(value, start[f"features.{key}"]), key


@pytest.mark.parametrize("name", ["baseline", "supervision"])
def test_the_own_stages_of_a_classifier_stay_to_be_learned(tmp_path, tiny, name):
    save_file(tiny().state_dict(), tmp_path / "w.safetensors")
    classifier, network = MODELS[name]
    model = build(classifier, LABELS, **TINY | network)
    missing = weights.initialise(model, tmp_path / "w.safetensors")
    own = list(dict(model.features.named_children()))
    own = own[own.index("relu5") + 1 :]
    assert {key.split(".")[0] for key in missing} <= set(own)
    assert missing
    assert frozen_stages(model, "relu5", missing) == len(model.features) - len(own)
    with pytest.raises(InputError, match="freeze_until"):
        frozen_stages(model, own[-1], missing)


@pytest.mark.parametrize("name", MODELS)
def test_mixed_precision_leaves_the_logits_in_single(learned, name):
    _, model = learned(name)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = model.features(torch.randn(2, 3, SIZE, SIZE))
        logits = model.head(features)
    assert (features.dtype, logits.dtype) == (torch.bfloat16, torch.float32)
    with torch.no_grad():  # as training predicts: the head alone is run outside
        assert torch.equal(model.head(features), logits)
        torch.testing.assert_close(model.head(features.float()), logits)


@pytest.mark.parametrize("name", MODELS)
def test_trains_in_mixed_precision(run, tmp_path, name):
    model = trained(run, tmp_path, name, epochs=1, precision="bf16-mixed")
    assert all(value.isfinite().all() for value in model.parameters())
