import inspect
import threading
from functools import partial, wraps
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from torchvision.models import densenet

from crosseai import cli, imagestore, mapstore, tables
from crosseai.errors import InputError
from crosseai.maps.attribution import MAPS, ahead, attribute
from crosseai.maps.cam import grad_cam, grad_cam_plus_plus
from crosseai.models import backbone, build, scalp, weights
from crosseai.models.augmentation import normalise

SCHEMA = yaml.safe_load(
    (Path(__file__).parents[2] / "workflow/schemas/config.schema.yaml").read_text()
)["properties"]["maps"]["additionalProperties"]

LABELS = ["Mass", "Nodule", "Effusion"]
NAMES = [f"{i}.png" for i in range(7)]
FOLD = dict(zip(NAMES, [0, 1, 1, 0, 1, 0, 0], strict=True))  # that tests the image
BOXED = {
    "0.png": ["Nodule"],
    "1.png": ["Effusion", "Mass"],
    "3.png": ["Mass", "Mass"],
    "4.png": ["Hernia"],  # no label of the model
    "6.png": ["Mass", "Nodule", "Effusion"],
}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
SIZE = 64


@pytest.fixture(autouse=True, scope="module")
def tiny():
    """Let a backbone be called "tiny", a DenseNet of five dense layers, and SCALP make maps."""

    def constructor(weights):
        return densenet.DenseNet(8, (1, 2, 1, 1), num_init_features=16, bn_size=2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbone.BACKBONES, "tiny", partial(backbone.build_densenet, constructor))
        patch.setattr(
            scalp.Scalp, "heatmaps", lambda model, x: model.features(x)[:, :3], raising=False
        )
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny):
    """Two folds' networks, seven images, some with boxes."""
    folder = tmp_path_factory.mktemp("run")
    for fold in (0, 1):
        torch.manual_seed(fold)
        settings = {"backbone": "tiny", "attention": "last"}
        description = {
            "classifier": "scalp",
            "labels": LABELS,
            "settings": settings,
            "size": SIZE,
            "mean": MEAN,
            "std": STD,
            "fold": fold,
        }
        model = build("scalp", LABELS, **settings)
        weights.save(model, description, folder / f"fold{fold}" / "weights.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (7, SIZE, SIZE), "uint8")
    imagestore.write(folder / "0.h5", NAMES, pixels, SIZE)
    imagestore.write(folder / "empty.h5", [], (), SIZE)
    split = [
        {"image": name, "part": "test" if FOLD[name] == fold else "train", "fold": fold}
        for name in NAMES
        for fold in (0, 1)
        if name != "6.png"  # of which no fold knows
    ]
    split.append({"image": "6.png", "part": "validation", "fold": 1})
    tables.write(pd.DataFrame(split), tables.SPLIT, folder / "split.parquet")
    boxes = [
        {"image": image, "label": label, "x": 1.0, "y": 2.0, "w": 3.0, "h": 4.0}
        for image, labels in BOXED.items()
        for label in labels
    ]
    tables.write(pd.DataFrame(boxes), tables.BOXES, folder / "boxes.parquet")
    return folder


def explain(run, out, folds=(0, 1), shard="0.h5", kind="grad_cam_plus_plus", **changes):
    arguments = {
        "models": [run / f"fold{fold}" / "weights.safetensors" for fold in folds],
        "split": run / "split.parquet",
        "boxes": run / "boxes.parquet",
        "shard": run / shard,
        "out": out,
        "kind": kind,
        "settings": {},
        "threads": 1,
    }
    attribute(**(arguments | changes))
    return mapstore.MapFile(out)


def directly(run, image, label, fold, function, **settings):
    """One map of one image by one fold's network."""
    model, _ = weights.load(run / f"fold{fold}" / "weights.safetensors")
    pixels = torch.from_numpy(imagestore.ImageStore([run / "0.h5"]).read(image))[None]
    return function(model, normalise(pixels, MEAN, STD), [LABELS.index(label)], **settings)[0, 0]


def assert_same_maps(run, file, pairs, function, **settings):
    assert list(file) == pairs
    for image, label in pairs:
        fold = int(file.fold[file.images.index(image)])
        expected = directly(run, image, label, fold, function, **settings).numpy()
        read = file.read(image, label)
        np.testing.assert_allclose(read, expected, rtol=1e-2, atol=2e-3 * expected.max())


def test_boxed_images_are_explained_by_the_fold_that_tested_them(run, tmp_path):
    with explain(run, tmp_path / "0.h5") as file:
        assert file.images == ["0.png", "1.png", "3.png"]
        assert file.fold.tolist() == [0, 1, 0]
        digests = [weights.digest(run / f"fold{f}" / "weights.safetensors") for f in (0, 1)]
        assert file.model == [digests[0], digests[1], digests[0]]
        assert file.classes == LABELS
        assert file.attributes == {"kind": "grad_cam_plus_plus", "target": "label"}
        assert file.shape == (2, 2)
        pairs = [("0.png", "Nodule"), ("1.png", "Mass"), ("1.png", "Effusion"), ("3.png", "Mass")]
        assert_same_maps(run, file, pairs, grad_cam_plus_plus)
        # The folds' maps do differ.
        other = directly(run, "1.png", "Mass", 0, grad_cam_plus_plus).numpy()
        assert np.abs(file.read("1.png", "Mass") - other).max() > 0.05 * other.max()


SETTINGS = {
    "guided_backprop": {"reduction": "sum"},
    "integrated_gradients": {"steps": 2, "reduction": "sum"},
    "layer_conductance": {"steps": 3},
    "lime": {"samples": 20, "superpixels": 9},
}


@pytest.mark.parametrize("kind", MAPS)
def test_every_kind_is_written_with_its_settings(run, tmp_path, kind):
    settings = SETTINGS.get(kind, {})
    with explain(run, tmp_path / "0.h5", kind=kind, settings=settings, batch=2) as file:
        assert file.attributes == {"kind": kind, "target": "label", **settings}
        native = "cam" in kind or kind in ("layer_conductance", "own")
        assert file.shape == ((2, 2) if native else (SIZE, SIZE))
        pairs = [("0.png", "Nodule"), ("1.png", "Mass"), ("1.png", "Effusion"), ("3.png", "Mass")]
        assert_same_maps(run, file, pairs, MAPS[kind], **settings)
        assert any(file.read(*pair).any() for pair in pairs)


def test_argmax_stores_the_map_of_the_highest_logit_for_every_label(run, tmp_path):
    moved = 0
    with explain(run, tmp_path / "0.h5", kind="grad_cam", target="argmax", score="all") as file:
        assert file.attributes == {"kind": "grad_cam", "target": "argmax"}
        assert len(file) == 7
        for image, label in file:
            fold = int(file.fold[file.images.index(image)])
            model, _ = weights.load(run / f"fold{fold}" / "weights.safetensors")
            pixels = torch.from_numpy(imagestore.ImageStore([run / "0.h5"]).read(image))[None]
            logits = model(normalise(pixels, MEAN, STD))[0].tolist()
            highest = LABELS[logits.index(max(logits))]
            expected = directly(run, image, highest, fold, grad_cam).numpy()
            np.testing.assert_allclose(
                file.read(image, label), expected, rtol=1e-2, atol=2e-3 * expected.max()
            )
            moved += highest != label
    assert 0 < moved < 7


def test_argmax_explains_each_image_once(run, tmp_path, monkeypatch):
    asked = []

    def two_classes(model, images, classes):
        asked.append(classes)
        return torch.ones(len(images), classes.shape[1], 2, 2)

    monkeypatch.setitem(MAPS, "toy", two_classes)
    with explain(run, tmp_path / "0.h5", kind="toy", target="argmax", explain="all") as file:
        assert len(file) == 18
    assert [classes.shape[1] for classes in asked] == [1] * len(asked)
    assert sum(map(len, asked)) == 6


@pytest.mark.parametrize("kind", MAPS)
def test_the_schema_has_each_kind_with_the_settings_of_its_function(kind):
    parameters = inspect.signature(MAPS[kind]).parameters.values()
    code = {p.name: p.default for p in parameters if p.default is not p.empty}
    own = {
        name: value["default"]
        for branch in SCHEMA["allOf"]
        if Draft202012Validator(branch["if"]).is_valid({"kind": kind})
        for name, value in branch["then"]["properties"].items()
    }
    assert kind in SCHEMA["properties"]["kind"]["enum"]
    assert own == code
    assert len(SCHEMA["properties"]["kind"]["enum"]) == len(MAPS)


def test_the_command_line_passes_everything_on(monkeypatch):
    called = []

    @wraps(attribute)
    def record(*words, **common):
        called.append((*words, common["target"]))

    monkeypatch.setattr("crosseai.maps.attribution.attribute", record)
    words = ["maps", "a", "b", "--images", "i", "--split", "s", "--boxes", "x", "--out", "o"]
    given = ["--kind", "lime", "--target", "argmax", "--samples", "7", "--seed", "3"]
    done = CliRunner().invoke(cli.main, words + given)
    assert done.exit_code == 0, done.output
    settings = {"samples": 7, "superpixels": 64, "seed": 3}
    assert called == [(("a", "b"), "s", "x", "i", "o", "lime", settings, "argmax")]


def test_all_explains_every_label_of_every_tested_image(run, tmp_path):
    with explain(run, tmp_path / "0.h5", explain="all") as file:
        pairs = [(image, label) for image in NAMES[:6] for label in LABELS]
        assert_same_maps(run, file, pairs, grad_cam_plus_plus)
        assert file.fold.tolist() == [FOLD[image] for image in NAMES[:6]]


def test_score_all_adds_images_that_no_fold_tested(run, tmp_path):
    with explain(run, tmp_path / "0.h5", score="all") as file:
        assert file.images == ["0.png", "1.png", "3.png", "6.png"]
        assert file.fold.tolist() == [0, 1, 0, 1]
        assert ("6.png", "Effusion") in file


def test_the_batch_size_does_not_count(run, tmp_path):
    with (
        explain(run, tmp_path / "a.h5", batch=1) as one,
        explain(run, tmp_path / "b.h5", batch=8) as eight,
    ):
        for pair in one:
            np.testing.assert_allclose(one.read(*pair), eight.read(*pair), rtol=5e-3, atol=1e-8)


@pytest.mark.parametrize("kind", ["grad_cam_plus_plus", "guided_backprop"])
def test_mixed_precision_gives_nearly_the_same_maps(run, tmp_path, kind):
    with (
        explain(run, tmp_path / "a.h5", kind=kind, precision="32-true") as single,
        explain(run, tmp_path / "b.h5", kind=kind, precision="bf16-mixed") as mixed,
    ):
        assert list(single) == list(mixed)
        one, other = (np.stack([file.read(*p) for p in file]) for file in (single, mixed))
        assert not np.array_equal(one, other)
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.98


def test_ahead_gives_all_in_order_and_raises_what_is_raised():
    assert list(ahead(range(5))) == list(range(5))
    assert list(ahead([])) == []

    def failing():
        yield 1
        raise OSError("gone")

    items = ahead(failing())
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_ahead_goes_on_while_the_taker_is_busy():
    second = threading.Event()

    def make():
        yield 1
        second.set()
        yield 2

    items = ahead(make())
    assert next(items) == 1
    assert second.wait(timeout=10)
    assert list(items) == [2]


def test_same_inputs_same_bytes(run, tmp_path):
    for name in ("a.h5", "b.h5"):
        explain(run, tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_an_empty_shard_and_one_without_boxes_give_empty_map_files(run, tmp_path):
    with explain(run, tmp_path / "0.h5", shard="empty.h5") as file:
        assert file.images == list(file) == []
        assert file.classes == LABELS
    tables.write(pd.DataFrame(columns=tables.BOXES.names), tables.BOXES, tmp_path / "none.parquet")
    with explain(run, tmp_path / "1.h5", boxes=tmp_path / "none.parquet") as file:
        assert list(file) == []


def test_a_setting_that_is_null_is_taken(run, tmp_path):
    with explain(run, tmp_path / "0.h5", settings={"layer": None}) as file:
        assert len(file) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "camera"}, r"'camera'.*grad_cam_plus_plus.*guided_backprop"),
        ({"target": "highest"}, "highest"),
        ({"folds": (1,)}, "no weights of fold 0"),
        ({"folds": ()}, "models"),
        ({"shard": "none.h5"}, r"none\.h5"),
        ({"settings": {"layer": "layer9"}}, "layer9"),
        ({"kind": "guided_backprop", "settings": {"reduction": "mean"}}, "mean"),
        ({"explain": "boxes"}, "boxes"),
        ({"score": "tests"}, "tests"),
        ({"precision": "16"}, "precision"),
    ],
)
def test_what_does_not_fit_is_said_and_nothing_is_written(run, tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        explain(run, tmp_path / "0.h5", **changes)
    assert list(tmp_path.iterdir()) == []
