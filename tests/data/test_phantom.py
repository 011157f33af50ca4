"""The phantom release: its layout, its repeatability, and what its findings look like."""

import csv
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from crosseai.data.phantom import plan, radiograph, write_phantom
from crosseai.errors import InputError
from crosseai.labels import CHESTX_RAY8

#: NIH's median box area as a share of the image.
NIH_AREA = {
    "Atelectasis": 0.02,
    "Cardiomegaly": 0.17,
    "Effusion": 0.06,
    "Infiltration": 0.06,
    "Mass": 0.015,
    "Nodule": 0.005,
    "Pneumonia": 0.06,
    "Pneumothorax": 0.04,
}


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")}


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "release"
    write_phantom(root, images=120, size=64, seed=5)
    return root


@pytest.fixture(scope="module")
def entries(release):
    with open(release / "Data_Entry_2017.csv", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def box_rows(release):
    with open(release / "BBox_List_2017.csv", newline="") as file:
        return list(csv.reader(file))[1:]


@pytest.fixture(scope="module")
def drawn_boxes():
    """Every finding's box, one a patient and label, as a share of the image: x1, y1, x2, y2."""
    size, boxes = 64, {label: {} for label in CHESTX_RAY8}
    for visit in plan(1200, seed=3):
        wanted = [label for label in visit.findings if visit.patient not in boxes[label]]
        if any(len(boxes[label]) < 60 for label in wanted):
            for label, (x, y, w, h) in radiograph(replace(visit, boxed=wanted), size)[1].items():
                boxes[label][visit.patient] = np.array([x, y, x + w, y + h]) / size
    return {label: np.array(list(found.values())) for label, found in boxes.items()}


@pytest.fixture(scope="module")
def visits():
    return plan(2500, seed=2)


def test_same_seed_gives_same_bytes_whatever_the_jobs(tmp_path):
    for name, seed, jobs in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        write_phantom(tmp_path / name, images=24, size=48, seed=seed, jobs=jobs)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    first, other = contents(tmp_path / "a"), contents(tmp_path / "c")
    assert all(first[path] != other[path] for path in first.keys() & other.keys())


def test_a_larger_release_begins_with_the_smaller_one():
    small, large = plan(20, seed=4), plan(200, seed=4)
    assert large[:20] == small


def test_layout_is_the_one_of_nih(release, entries):
    assert {path.name for path in release.iterdir()} == {
        "images",
        "PHANTOM",  # alone tells it from a real release
        "Data_Entry_2017.csv",
        "BBox_List_2017.csv",
        "train_val_list.txt",
        "test_list.txt",
    }
    assert ",".join(entries[0]) == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    header = (release / "BBox_List_2017.csv").read_text().splitlines()[0]
    assert header == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    assert {row[0] for row in entries[1:]} == {path.name for path in release.glob("images/*")}
    assert len(entries) == 121
    for row in entries[1:]:
        assert row[0] == f"{int(row[3]):08d}_{int(row[2]):03d}.png"
        assert set(row[1].split("|")) <= {*CHESTX_RAY8, "No Finding"}
        assert row[5] in ("F", "M")
        assert row[6] in ("PA", "AP")
    with Image.open(release / "images" / entries[1][0]) as image:
        assert (image.mode, image.size) == ("L", (64, 64))


def test_lists_part_the_patients(release, entries):
    train, test = (
        (release / name).read_text().split() for name in ("train_val_list.txt", "test_list.txt")
    )
    assert sorted(train + test) == sorted(row[0] for row in entries[1:])
    assert {name[:8] for name in train}.isdisjoint(name[:8] for name in test)
    assert 0.15 < len(test) / 120 < 0.35


def test_boxes_lie_in_the_picture_and_agree_with_table_and_list(release, entries, box_rows):
    test = set((release / "test_list.txt").read_text().split())
    labels = {row[0]: row[1].split("|") for row in entries[1:]}
    assert len(box_rows) > 10
    assert len({(row[0], row[1]) for row in box_rows}) == len(box_rows)
    assert "Infiltration" not in {row[1] for row in box_rows}
    for image, label, x, y, w, h, *rest in box_rows:
        assert rest == ["", "", ""]
        assert image in test
        assert label.replace("Infiltrate", "Infiltration") in labels[image]
        assert 0 <= float(x) < float(x) + float(w) <= 64
        assert 0 <= float(y) < float(y) + float(h) <= 64


def test_how_often_things_occur(visits):
    share = {k: n / len(visits) for k, n in Counter(x for v in visits for x in v.labels).items()}
    assert set(share) == set(CHESTX_RAY8)
    assert all(list(visit.labels) == sorted(visit.labels) for visit in visits)
    assert all(0.07 < value < 0.16 for value in share.values())
    assert 0.40 < np.mean([not visit.labels for visit in visits]) < 0.50
    assert 0.02 < np.mean([set(visit.labels) != set(visit.findings) for visit in visits]) < 0.06
    positives = sum(len(visit.labels) for visit in visits if visit.test)
    assert 0.8 < sum(len(visit.boxed) for visit in visits) / positives < 0.95
    assert all(set(visit.boxed) <= set(visit.labels) & set(visit.findings) for visit in visits)


def test_findings_persist_and_come_together(visits):
    pairs = [(a, b) for a, b in pairwise(visits) if a.patient == b.patient]
    stay = np.mean(["Mass" in b.findings for a, b in pairs if "Mass" in a.findings])
    assert 0.4 < stay < 0.9
    effusion = [visit for visit in visits if "Effusion" in visit.findings]
    both = np.mean(["Atelectasis" in visit.findings for visit in effusion])
    assert both > 1.5 * np.mean(["Atelectasis" in visit.findings for visit in visits])


@pytest.mark.parametrize("label", CHESTX_RAY8)
def test_boxes_have_the_size_of_nih(drawn_boxes, label):
    x1, y1, x2, y2 = drawn_boxes[label].T
    assert len(x1) >= 50
    assert NIH_AREA[label] / 1.4 < np.median((x2 - x1) * (y2 - y1)) < NIH_AREA[label] * 1.4


@pytest.mark.parametrize("label", CHESTX_RAY8)
def test_only_the_heart_is_always_in_one_place(drawn_boxes, label):
    boxes = drawn_boxes[label]
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=2)  # [N, N]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    iou = both / (area[:, None] + area[None, :] - both)
    np.fill_diagonal(iou, 0)
    medoid = iou[iou.mean(axis=1).argmax()]
    hits = (medoid >= 0.3).mean()
    assert hits > 0.9 if label == "Cardiomegaly" else hits < 0.35


@pytest.mark.parametrize("label", ["Effusion", "Mass", "Nodule", "Pneumonia"])
def test_a_finding_changes_its_box_and_little_else(label):
    """With and without the finding; the exposure adapts, so a little changes everywhere."""
    for clean in [visit for visit in plan(60, seed=6) if not visit.findings][:8]:
        sick = replace(clean, findings={label: 0.9}, boxed=(label,))
        image, boxes = radiograph(sick, 128)
        change = image.astype(float) - radiograph(clean, 128)[0]
        x, y, w, h = (round(value) for value in boxes[label])
        within = np.zeros(change.shape, bool)
        within[y : y + h, x : x + w] = True
        assert change[within].mean() > 10 + change[~within].mean()
        assert np.abs(change[~within]).mean() < 15


def test_anatomy_stays_with_the_patient():
    visits = [visit for visit in plan(400, seed=8) if visit.followup < 2]
    patients = [p for p, n in Counter(v.patient for v in visits).items() if n == 2][:40]
    pictures = {(v.patient, v.followup): radiograph(v, 48)[0].ravel() for v in visits}
    first, second = (np.array([pictures[p, n] for p in patients], float) for n in (0, 1))
    between = np.corrcoef(first, second)[:40, 40:]
    others = between[~np.eye(40, dtype=bool)].mean()
    assert np.diag(between).mean() > others
    assert (between.argmax(axis=1) == np.arange(40)).mean() > 5 / 40  # five times chance


def test_brightness_gives_no_label_away():
    visits = plan(500, seed=9)
    brightness = np.array([radiograph(visit, 32)[0].mean() for visit in visits])
    rank = brightness.argsort().argsort()
    for label in CHESTX_RAY8:
        sick = np.array([label in visit.findings for visit in visits])
        auc = (rank[sick].mean() - (sick.sum() - 1) / 2) / (~sick).sum()
        assert 0.3 < auc < 0.7, label


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        write_phantom(tmp_path, images=2, size=32)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("crosseai.data.phantom.write_tables", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_phantom(tmp_path / "release", images=2, size=32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [{"images": 0}, {"size": 8}, {"seed": -1}])
def test_a_number_out_of_range_is_named(tmp_path, bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        write_phantom(tmp_path / "release", **bad)
