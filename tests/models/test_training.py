import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from crosseai import imagestore, tables
from crosseai.errors import InputError
from crosseai.imagestore import ImageStore
from crosseai.models import build, training, weights
from crosseai.models.augmentation import MEAN, STD, normalise
from crosseai.models.training import Inputs, Settings, read_images, train

LABELS = ["Left", "Top"]
SIZE = 32
NETWORK = {"backbone": "tiny", "attention": "last", "output_stride": 16, "negatives": 4}
PLAIN = {"rotation": 0.0, "scale": 0.0, "shift": 0.0, "contrast": 0.0, "flip": False}
SETTINGS = Settings(
    epochs=3,
    batch=16,
    learning_rate=5e-3,
    optimizer="adamw",
    precision="32-true",
    threads=1,
    **PLAIN,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Noisy images, two a patient, with a bright square whose place tells the labels."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    n = 90
    names = [f"{i:02}.png" for i in range(n)]
    pixels = rng.integers(0, 120, (n, SIZE, SIZE), "uint8")
    labels = []
    for i in range(n):
        left, top = rng.integers(0, 2, 2).astype(bool)
        x, y = rng.integers(2, 6, 2) + 16 * np.array([not left, not top])
        pixels[i, y : y + 9, x : x + 9] += 120
        labels.append([name for name, on in zip(LABELS, (left, top), strict=True) if on])
    records = pd.DataFrame({"image": names, "path": names, "labels": labels})
    records["patient"] = [str(i // 2) for i in range(n)]
    records[["view", "official"]] = "PA", ""
    records[["width", "height"]] = SIZE
    tables.write(records, tables.RECORDS, folder / "records.parquet")
    parts = np.repeat(["train", "validation", "test"], [48, 22, 20])
    split = pd.concat(
        [
            pd.DataFrame({"image": names, "part": parts, "fold": 0}),
            pd.DataFrame({"image": names, "part": parts[::-1], "fold": 1}),
            pd.DataFrame({"image": names[:60], "part": parts[:60], "fold": 2}),  # no test part
            pd.DataFrame({"image": names[:48], "part": parts[:48], "fold": 3}),  # no validation
        ]
    )
    tables.write(split, tables.SPLIT, folder / "split.parquet")
    imagestore.write(folder / "0.h5", names[::2], pixels[::2], SIZE)
    imagestore.write(folder / "1.h5", names[1::2], pixels[1::2], SIZE)
    return folder


def train_fold(run, out, settings=SETTINGS, fold=0, network=NETWORK, labels=LABELS):
    shards = [run / "0.h5", run / "1.h5"]
    records, split = run / "records.parquet", run / "split.parquet"
    train(records, split, shards, fold, labels, out, "scalp", network, settings)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Weights file of the whole backbone, as it is built."""
    path = tmp_path_factory.mktemp("start") / "w.safetensors"
    torch.manual_seed(SETTINGS.seed)
    save_file(build("scalp", LABELS, **NETWORK).features.state_dict(), path)
    return str(path)


def weights_of(out):
    return (out / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """One whole training to look at."""
    out = tmp_path_factory.mktemp("trained")
    train_fold(run, out, replace(SETTINGS, epochs=10))
    return out


def test_learns_where_the_square_is(trained):
    history = tables.read(trained / "history.parquet", tables.HISTORY)
    assert history.epoch.tolist() == list(range(1, 11))
    assert history.classification.iloc[-1] < 0.8 * history.classification.iloc[0]
    assert history.validation_loss.iloc[-1] < 0.85 * history.validation_loss.iloc[0]
    total = 0.8 * history.classification + 0.2 * history.contrastive
    np.testing.assert_allclose(history.loss, total, rtol=1e-5)
    auc = tables.read(trained / "auc.parquet", tables.AUC)
    assert (auc.auc > 0.9).all()
    assert not (trained / "checkpoint.pt").exists()


def test_auc_and_predictions_are_those_of_the_stored_model(run, trained):
    """Everything again from the weights file alone, image by image."""
    model, description = weights.load(trained / "weights.safetensors")
    store = ImageStore([run / "0.h5", run / "1.h5"])
    split = tables.read(run / "split.parquet", tables.SPLIT)
    split = split[(split.fold == 0) & (split.part != "train")]
    truth = tables.read(run / "records.parquet", tables.RECORDS).set_index("image").labels
    predictions = tables.read(trained / "predictions.parquet", tables.predictions(LABELS))
    assert (
        predictions[["image", "part", "fold"]].values.tolist()
        == split[["image", "part", "fold"]].values.tolist()
    )
    pixels = torch.stack([torch.from_numpy(store.read(name)) for name in predictions.image])
    with torch.no_grad():
        images = normalise(pixels, description["mean"], description["std"])
        expected = model(images).sigmoid()
    np.testing.assert_allclose(predictions[LABELS], expected, atol=1e-5)
    auc = tables.read(trained / "auc.parquet", tables.AUC)
    assert auc.part.tolist() == ["validation"] * 2 + ["test"] * 2
    for row in auc.itertuples():
        own = predictions[predictions.part == row.part]
        positive = [row.label in truth[image] for image in own.image]
        assert row.auc == pytest.approx(roc_auc_score(positive, own[row.label]))
        assert (row.n, row.positives) == (len(own), sum(positive))


def test_the_best_epoch_is_kept(run, tmp_path, monkeypatch):
    """Learning that is undone after the second epoch leaves the second epoch's weights."""
    rates = {0: 5e-3, 1: 5e-3, 2: 10.0}

    def learning_rate(epoch, settings):
        return rates[int(epoch)]

    monkeypatch.setattr(training, "learning_rate", learning_rate)
    train_fold(run, tmp_path, replace(SETTINGS, epochs=3))
    history = tables.read(tmp_path / "history.parquet", tables.HISTORY)
    best = history.validation_auc.max()
    assert history.validation_auc.iloc[-1] < best
    auc = tables.read(tmp_path / "auc.parquet", tables.AUC)
    assert auc.auc[auc.part == "validation"].mean() == pytest.approx(best, abs=1e-12)


def test_the_model_file_describes_itself(trained):
    model, description = weights.load(trained / "weights.safetensors")
    assert description == {
        "classifier": "scalp",
        "labels": LABELS,
        "settings": NETWORK,
        "size": SIZE,
        "mean": list(MEAN),
        "std": list(STD),
        "fold": 0,
    }
    assert model.labels == LABELS


def killed_after(epochs, run, out, settings, monkeypatch):
    """Train until the epoch after `epochs` begins."""
    original = training.train_epoch

    def train_epoch(*args):
        if args[6] == epochs:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", train_epoch)
        with pytest.raises(KeyboardInterrupt):
            train_fold(run, out, settings)
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint.pt"]


def count_epochs(monkeypatch):
    """The epochs that are trained from now on."""
    original, seen = training.train_epoch, []

    def train_epoch(*args):
        seen.append(args[6])
        return original(*args)

    monkeypatch.setattr(training, "train_epoch", train_epoch)
    return seen


@pytest.mark.parametrize(
    "changes",
    [
        {"rotation": 10.0, "scale": 0.1, "shift": 0.1, "contrast": 0.2, "flip": True},
        {"optimizer": "sgd", "learning_rate": 0.05, "flip": True, "freeze_until": "transition1"},
        {"cache_frozen": True, "flip": True, "freeze_until": "transition1"},
    ],
    ids=["adamw", "sgd", "cached"],
)
def test_a_killed_training_goes_on_to_the_same_bytes(run, start, tmp_path, monkeypatch, changes):
    settings = replace(SETTINGS, weights=start, **changes)
    train_fold(run, tmp_path / "whole", settings)
    killed_after(2, run, tmp_path / "killed", settings, monkeypatch)
    seen = count_epochs(monkeypatch)
    train_fold(run, tmp_path / "killed", settings)
    assert seen == [2]
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")
    for name, schema in [
        ("auc", tables.AUC),
        ("predictions", tables.predictions(LABELS)),
        ("history", tables.HISTORY),
    ]:
        whole, killed = (
            tables.read(tmp_path / folder / f"{name}.parquet", schema)
            for folder in ("whole", "killed")
        )
        pd.testing.assert_frame_equal(
            killed.drop(columns="seconds", errors="ignore"),
            whole.drop(columns="seconds", errors="ignore"),
        )
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()


def test_a_training_killed_after_its_last_epoch_trains_no_more(run, tmp_path, monkeypatch):
    settings = replace(SETTINGS, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(training, "write_results", None)
        with pytest.raises(TypeError):
            train_fold(run, tmp_path, settings)
    seen = count_epochs(monkeypatch)
    train_fold(run, tmp_path, settings)
    assert seen == []
    assert (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "fold", "network"),
    [
        ({"seed": 1}, 0, {}),
        ({}, 1, {}),
        ({}, 0, {"temperature": 0.4}),
    ],
)
def test_a_checkpoint_of_another_training_is_discarded(
    run, tmp_path, monkeypatch, caplog, change, fold, network
):
    settings = replace(SETTINGS, epochs=2)
    killed_after(1, run, tmp_path / "x", settings, monkeypatch)
    seen = count_epochs(monkeypatch)
    other = replace(settings, **change)
    with caplog.at_level("INFO"):
        train_fold(run, tmp_path / "x", other, fold, NETWORK | network)
    assert seen == [0, 1]
    assert "discarded" in caplog.text
    train_fold(run, tmp_path / "fresh", other, fold, NETWORK | network)
    assert weights_of(tmp_path / "x") == weights_of(tmp_path / "fresh")


def test_a_checkpoint_of_other_pixels_or_weights_is_discarded(run, tmp_path, monkeypatch, tiny):
    torch.manual_seed(1)
    save_file(tiny().state_dict(), tmp_path / "w.safetensors")
    settings = replace(SETTINGS, epochs=2, weights=str(tmp_path / "w.safetensors"))
    killed_after(1, run, tmp_path / "a", settings, monkeypatch)
    killed_after(1, run, tmp_path / "b", settings, monkeypatch)
    seen = count_epochs(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(ImageStore, "read", lambda self, image: np.zeros((SIZE, SIZE), "uint8"))
        train_fold(run, tmp_path / "a", settings)
    assert seen == [0, 1]
    torch.manual_seed(2)
    save_file(tiny().state_dict(), tmp_path / "w.safetensors")
    train_fold(run, tmp_path / "b", settings)
    assert seen == [0, 1, 0, 1]


def test_frozen_stages_keep_their_weights_and_statistics(run, tmp_path, tiny):
    torch.manual_seed(5)
    start = {
        name: value.abs() + 0.5 if "running_var" in name else value
        for name, value in tiny().state_dict().items()
    }
    save_file(start, tmp_path / "w.safetensors")
    settings = replace(
        SETTINGS, epochs=2, weights=str(tmp_path / "w.safetensors"), freeze_until="transition2"
    )
    train_fold(run, tmp_path, settings)
    after = load_file(tmp_path / "weights.safetensors")
    frozen = ("conv0", "norm0", "denseblock1", "transition1", "denseblock2", "transition2")
    for name, value in start.items():
        if name.startswith("features."):
            kept = name.split(".")[1] in frozen
            assert torch.equal(after[name], value) == kept, name


def test_frozen_norms_keep_their_statistics_and_still_learn(run, tmp_path):
    train_fold(run, tmp_path, replace(SETTINGS, epochs=1, freeze_norms=True))
    torch.manual_seed(SETTINGS.seed)
    start = build("scalp", LABELS, **NETWORK).state_dict()
    after = load_file(tmp_path / "weights.safetensors")
    for name, value in after.items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(value, start[name]), name
    assert any("norm" in n and not torch.equal(v, start[n]) for n, v in after.items())


def test_nothing_is_frozen_at_random_numbers(run, tmp_path):
    with pytest.raises(InputError, match=r"freeze_until: \d+ parameters, conv0\.weight"):
        train_fold(run, tmp_path, replace(SETTINGS, freeze_until="transition1"))


def test_mixed_precision_takes_effect(run, tmp_path):
    train_fold(run, tmp_path / "a", replace(SETTINGS, epochs=1))
    train_fold(run, tmp_path / "b", replace(SETTINGS, epochs=1, precision="bf16-mixed"))
    assert weights_of(tmp_path / "a") != weights_of(tmp_path / "b")


def test_a_diverged_training_ends_in_one_line(run, tmp_path):
    settings = replace(SETTINGS, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(InputError, match="learning_rate: in epoch 1 the loss is no longer finite"):
        train_fold(run, tmp_path, settings)


@pytest.mark.parametrize(("setting", "value"), [("negatives", 1), ("negatives", 5)])
def test_odd_negatives_are_refused(run, tmp_path, setting, value):
    with pytest.raises(InputError, match=setting):
        train_fold(run, tmp_path, network=NETWORK | {setting: value})


def test_without_freezing_every_parameter_learns(run, tmp_path, tiny):
    save_file(tiny().state_dict(), tmp_path / "w.safetensors")
    torch.manual_seed(SETTINGS.seed)
    start = build("scalp", LABELS, **NETWORK)
    weights.initialise(start, tmp_path / "w.safetensors")
    train_fold(run, tmp_path, replace(SETTINGS, epochs=1, weights=str(tmp_path / "w.safetensors")))
    after = load_file(tmp_path / "weights.safetensors")
    assert not [
        name for name, value in start.state_dict().items() if torch.equal(after[name], value)
    ]


def boxes_of_four():
    """A box on every tenth image, on one label."""
    rows = [(f"{i}0.png", "Top", 4.0, 8.0, 16.0, 2.0) for i in range(4)]
    return pd.DataFrame(rows, columns=tables.BOXES.names)


def parts_of(run, stage, settings, precision="32-true"):
    torch.manual_seed(0)
    frozen = build("scalp", LABELS, **NETWORK).features[:stage].eval()
    records = tables.read(run / "records.parquet", tables.RECORDS)
    store = ImageStore([run / "0.h5", run / "1.h5"])
    images = read_images(records, boxes_of_four(), store, records.image[:40], LABELS)
    return Inputs(frozen, images, settings, Fabric(accelerator="cpu", precision=precision))


def test_read_images_gives_pixels_truth_patients_and_boxes(run):
    records = tables.read(run / "records.parquet", tables.RECORDS)
    store = ImageStore([run / "0.h5", run / "1.h5"])
    names = ["07.png", "20.png", "06.png"]
    records.loc[records.image == "20.png", "height"] = 2 * SIZE
    images = read_images(records, boxes_of_four(), store, names, ["Top", "Hernia", "Left"])
    assert images.names == names
    assert len(images) == 3
    assert images.pixels.dtype == torch.uint8
    for i, name in enumerate(names):
        assert (images.pixels[i].numpy() == store.read(name)).all()
        found = set(records.labels[records.image == name].item())
        assert images.truth[i].tolist() == ["Top" in found, False, "Left" in found]
    assert images.patients[0] == images.patients[2] != images.patients[1]
    assert images.boxes[1, 0].tolist() == [0.125, 0.125, 0.625, 0.15625]
    assert images.boxes.isnan().sum() == 4 * 8


def test_the_frozen_part_runs_in_the_trainings_precision(run):
    rows, draw = np.array([3, 0]), torch.Generator()
    half = parts_of(run, 5, SETTINGS, "bf16-mixed")
    assert half.plain(rows).dtype == half.augmented(rows, draw)[0].dtype == torch.bfloat16
    full = parts_of(run, 5, SETTINGS)
    assert full.plain(rows).dtype == full.augmented(rows, draw)[0].dtype == torch.float32
    distance = (half.plain(rows).float() - full.plain(rows)).abs().max()
    assert 0 < distance < 0.1 * full.plain(rows).abs().max()


@pytest.mark.parametrize("flip", [False, True])
def test_the_cache_gives_what_the_frozen_part_gives(run, flip):
    """Of the image or of its mirror image, within half precision."""
    settings = replace(SETTINGS, flip=flip)
    plain = parts_of(run, 5, settings)
    cached = parts_of(run, 5, replace(settings, cache_frozen=True))
    rows = np.array([3, 0, 31, 7, 39])
    torch.testing.assert_close(cached.plain(rows), plain.plain(rows), rtol=2**-10, atol=1e-5)
    mirrored = plain.frozen(normalise(plain.images.pixels[rows].flip(2))).detach()
    flipped = []
    for seed in range(8):
        inputs, boxes = cached.augmented(rows, torch.Generator().manual_seed(seed))
        assert inputs.dtype == torch.float32
        upright = torch.tensor([0.125, 0.25, 0.625, 0.3125])  # of the second row's second label
        sideways = torch.tensor([0.375, 0.25, 0.875, 0.3125])
        views = zip(inputs, plain.plain(rows), mirrored, strict=True)
        for i, (own, kept, turned) in enumerate(views):
            distance = [(own - other).abs().max() for other in (kept, turned)]
            assert min(distance) < 2**-9 * own.abs().max()
            assert max(distance) > 0.01 * own.abs().max()
            flipped.append(bool(distance[1] < distance[0]))
            if i == 1:
                assert torch.equal(boxes[1, 1], sideways if flipped[-1] else upright)
    if flip:
        assert 0.2 < np.mean(flipped) < 0.8
        first, again = (cached.augmented(rows, torch.Generator().manual_seed(3)) for _ in range(2))
        assert torch.equal(first[0], again[0])
    else:
        assert not any(flipped)


def test_training_on_the_cache_is_training_on_the_images(run, start, tmp_path):
    """One epoch, no augmentation: half-precision activations alone tell the two apart."""
    settings = replace(
        SETTINGS,
        epochs=1,
        weights=start,
        freeze_until="transition1",
        optimizer="sgd",
        learning_rate=0.01,
    )
    train_fold(run, tmp_path / "plain", settings)
    train_fold(run, tmp_path / "cached", replace(settings, cache_frozen=True))
    plain, cached = (
        tables.read(tmp_path / name / "predictions.parquet", tables.predictions(LABELS))[LABELS]
        for name in ("plain", "cached")
    )
    assert plain.to_numpy().std() > 1e-3
    np.testing.assert_allclose(cached, plain, atol=1e-3)
    assert weights_of(tmp_path / "plain") != weights_of(tmp_path / "cached")


def test_caching_without_a_frozen_part_changes_nothing(run, tmp_path):
    settings = replace(SETTINGS, epochs=1, flip=True)
    train_fold(run, tmp_path / "a", settings)
    train_fold(run, tmp_path / "b", replace(settings, cache_frozen=True))
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")


def test_the_whole_backbone_may_be_frozen(run, start, tmp_path):
    settings = replace(SETTINGS, epochs=2, weights=start, freeze_until="relu5", cache_frozen=True)
    train_fold(run, tmp_path, settings)
    torch.manual_seed(settings.seed)
    built = build("scalp", LABELS, **NETWORK).state_dict()
    after = load_file(tmp_path / "weights.safetensors")
    changed = {name for name in built if not torch.equal(built[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_a_fold_without_test_images_and_a_loss_without_contrast(run, tmp_path):
    network = NETWORK | {"classification_weight": 1}
    train_fold(run, tmp_path, replace(SETTINGS, epochs=1), 2, network)
    auc = tables.read(tmp_path / "auc.parquet", tables.AUC)
    assert auc.n[auc.part == "test"].tolist() == [0, 0]
    assert auc.auc[auc.part == "test"].isna().all()
    history = tables.read(tmp_path / "history.parquet", tables.HISTORY)
    assert history.contrastive.isna().all()
    assert history.loss.tolist() == history.classification.tolist()
    predictions = tables.read(tmp_path / "predictions.parquet", tables.predictions(LABELS))
    assert set(predictions.part) == {"validation"}


def test_a_label_of_one_class_has_no_auc_and_does_not_count(run, tmp_path):
    train_fold(run, tmp_path, replace(SETTINGS, epochs=1), labels=[*LABELS, "Hernia"])
    auc = tables.read(tmp_path / "auc.parquet", tables.AUC)
    assert auc.auc.isna().tolist() == [False, False, True] * 2
    history = tables.read(tmp_path / "history.parquet", tables.HISTORY)
    assert history.validation_auc[0] == pytest.approx(auc.auc[:2].mean())


def test_the_learning_rate_warms_up_and_falls_to_zero():
    settings = Settings(epochs=10, learning_rate=0.2)
    rates = [training.learning_rate(epoch, settings) for epoch in np.arange(0, 10, 0.01)]
    assert 0 < rates[0] < 0.01
    assert np.diff(rates[:100]).min() > 0
    assert max(rates) == pytest.approx(0.2, rel=0.03)
    assert np.diff(rates[101:]).max() < 0
    assert 0 <= rates[-1] < 1e-4
    assert rates[550] == pytest.approx(0.1)  # half way down in the middle of what is left
    assert training.learning_rate(0.1, Settings(epochs=1, learning_rate=0.2)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("change", "fold", "said"),
    [
        ({"freeze_until": "layer5"}, 0, r"freeze_until: no stage 'layer5'.*'transition2'"),
        ({"optimizer": "adam"}, 0, r"optimizer: 'adam'.*sgd or adamw"),
        ({"weights": "none.safetensors"}, 0, r"none\.safetensors: no such weights file"),
        ({"precision": "8-bit"}, 0, r"precision: '8-bit'"),
        ({}, 3, r"fold 3 has no image"),
        ({}, 9, r"fold 9 has no image"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(run, tmp_path, change, fold, said):
    with pytest.raises(InputError, match=said) as error:
        train_fold(run, tmp_path / "out", replace(SETTINGS, **change), fold)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_validation_images_of_one_class_are_said_in_one_line(run, tmp_path):
    """No label that validation both has and lacks: no epoch could be called the best."""
    with pytest.raises(InputError, match="validat"):
        train_fold(run, tmp_path, replace(SETTINGS, epochs=1), labels=["Hernia", "Fibrosis"])


def test_a_split_image_that_the_cache_lacks_is_named(run, tmp_path):
    with pytest.raises(InputError, match=r"01\.png"):
        train(
            run / "records.parquet",
            run / "split.parquet",
            [run / "0.h5"],
            0,
            LABELS,
            tmp_path,
            "scalp",
            NETWORK,
            SETTINGS,
        )


def test_auc_is_the_share_of_pairs_in_the_right_order():
    truth = torch.tensor([0.0, 1, 0, 1, 1])
    probability = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.9])
    assert training.auc_of(truth, probability) == pytest.approx((1 + 0 + 1 + 0.5 + 1 + 1) / 6)
    assert math.isnan(training.auc_of(torch.ones(3), probability[:3]))
