import logging

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from crosseai import tables
from crosseai.data.nih import read_release, write_release
from crosseai.errors import InputError

ROWS = [
    ("00000001_000.png", "Mass|Pleural_Thickening|Infiltration", "1"),
    ("00000001_001.png", "No Finding", "1"),
    ("00000002_000.png", "Cardiomegaly|Atelectasis", "2"),
]
BOXES = [
    "00000001_000.png,Infiltrate,1.5,2.25,10,20.125,,,",
    "00000002_000.png,Cardiomegaly,0,0,40,30,,,",
]
LISTS = {"train_val": ["00000001_000.png", "00000001_001.png"], "test": ["00000002_000.png"]}


def test_a_sound_release_is_read_whole(release_builder, caplog):
    root = release_builder(ROWS, BOXES, lists=LISTS)
    release = read_release(root, strict=True)
    assert release.records.to_dict("list") == {
        "image": [row[0] for row in ROWS],
        "path": [f"images/{row[0]}" for row in ROWS],
        "patient": ["1", "1", "2"],
        "labels": [["Infiltration", "Mass"], [], ["Atelectasis", "Cardiomegaly"]],
        "view": ["PA"] * 3,
        "width": [40] * 3,
        "height": [30] * 3,
        "official": ["train_val", "train_val", "test"],
    }
    assert release.boxes.to_numpy().tolist() == [
        ["00000001_000.png", "Infiltration", 1.5, 2.25, 10.0, 20.125],
        ["00000002_000.png", "Cardiomegaly", 0.0, 0.0, 40.0, 30.0],
    ]
    assert release.left_out.empty
    assert not caplog.records


def test_images_in_twelve_folders_and_the_table_of_2020(release_builder):
    files = [
        "images_001/images/00000001_000.png",
        "images_007/images/00000001_001.png",
        "images_012/images/00000002_000.png",
    ]
    root = release_builder(ROWS, BOXES, files, table="Data_Entry_2017_v2020.csv")
    release = read_release(root, strict=True)
    assert release.records["path"].tolist() == files
    assert set(release.records["official"]) == {""}


def test_the_table_of_2020_is_read_where_both_are_present(release_builder):
    release_builder(ROWS)
    root = release_builder(
        [(ROWS[0][0], "Nodule", "1"), *ROWS[1:]], table="Data_Entry_2017_v2020.csv"
    )
    assert read_release(root).records["labels"][0] == ["Nodule"]


def test_labels_choose_and_order_what_is_kept(release_builder):
    root = release_builder(ROWS, BOXES)
    release = read_release(root, ("Pleural_Thickening", "Mass", "Cardiomegaly"), strict=True)
    assert release.records["labels"].tolist() == [
        ["Pleural_Thickening", "Mass"],
        [],
        ["Cardiomegaly"],
    ]
    assert release.boxes["label"].tolist() == ["Cardiomegaly"]  # the box of Infiltration goes too


def test_own_findings_and_no_boxes_are_allowed(release_builder):
    root = release_builder([("a.png", "Fracture", "p 1")])
    (root / "BBox_List_2017.csv").unlink()
    release = read_release(root, ["Fracture"], strict=True)
    assert release.records["labels"].tolist() == [["Fracture"]]
    assert release.boxes.columns.tolist() == tables.BOXES.names
    assert release.boxes.empty


def test_sizes_are_those_of_the_files(release_builder):
    names = ["rgba.png", "deep.png", "photo.jpg", "plain.png"]
    root = release_builder([(name, "Mass", "1") for name in names])
    Image.new("RGBA", (7, 9)).save(root / "images/rgba.png")
    Image.fromarray(np.zeros((5, 300), "uint16")).save(root / "images/deep.png")
    Image.new("L", (11, 13)).save(root / "images/photo.jpg")
    records = read_release(root, strict=True).records.set_index("image")
    assert records[["width", "height"]].T.to_dict("list") == {
        "rgba.png": [7, 9],
        "deep.png": [300, 5],
        "photo.jpg": [11, 13],
        "plain.png": [40, 30],
    }


def test_a_box_one_pixel_outside_is_clipped(release_builder):
    boxes = [
        "00000001_000.png,Mass,-1,-0.5,11,10.5,,,",
        "00000002_000.png,Cardiomegaly,30.5,20.25,10.5,10,,,",
    ]
    release = read_release(release_builder(ROWS, boxes), strict=True)
    assert release.boxes[list("xywh")].to_numpy().tolist() == [
        [0, 0, 10, 10],
        [30.5, 20.25, 9.5, 9.75],
    ]


MASS = "00000001_000.png,Mass"
PROBLEMS = {  # name: (changes to the release, left out: file, row, image, and a word of the reason)
    "absent image": (
        {"files": [f"images/{ROWS[n][0]}" for n in (0, 2)]},
        ("Data_Entry_2017.csv", 3, ROWS[1][0], "absent"),
    ),
    "file not in the table": (
        {"files": ["images/stray.png", *(f"images/{row[0]}" for row in ROWS)]},
        ("images/stray.png", None, "stray.png", "not named"),
    ),
    "file in two folders": (
        {"files": [*(f"images/{row[0]}" for row in ROWS), f"images_001/images/{ROWS[0][0]}"]},
        (f"images_001/images/{ROWS[0][0]}", None, ROWS[0][0], "two image folders"),
    ),
    "image twice": (
        {"rows": [*ROWS, (ROWS[0][0], "Hernia", "9")]},
        ("Data_Entry_2017.csv", 5, ROWS[0][0], "twice"),
    ),
    "no patient": (
        {
            "rows": [*ROWS, ("last.png", "Mass", " ")],
            "files": [f"images/{name}" for name, *_ in ROWS],
        },
        ("Data_Entry_2017.csv", 5, "last.png", "patient"),
    ),
    "box without label": (
        {"boxes": [*BOXES, "00000001_001.png,Mass,1,2,3,4,,,"]},
        ("BBox_List_2017.csv", 4, "00000001_001.png", "label"),
    ),
    "box with a misspelt label": (
        {"boxes": [*BOXES, "00000001_000.png,Maas,1,2,3,4,,,"]},
        ("BBox_List_2017.csv", 4, "00000001_000.png", "label"),
    ),
    "box of unknown image": (
        {"boxes": [*BOXES, "unknown.png,Mass,1,2,3,4,,,"]},
        ("BBox_List_2017.csv", 4, "unknown.png", "unknown"),
    ),
    "box outside to the right": (
        {"boxes": [*BOXES, f"{MASS},30,2,11.5,4,,,"]},
        ("BBox_List_2017.csv", 4, ROWS[0][0], "leaves"),
    ),
    "box outside at the top": (
        {"boxes": [*BOXES, f"{MASS},3,-1.5,5,4,,,"]},
        ("BBox_List_2017.csv", 4, ROWS[0][0], "leaves"),
    ),
    "box wholly outside": (
        {"boxes": [*BOXES, f"{MASS},40.1,2,0.5,4,,,"]},
        ("BBox_List_2017.csv", 4, ROWS[0][0], "leaves"),
    ),
    "box of no width": (
        {"boxes": [*BOXES, f"{MASS},3,3,0,4,,,"]},
        ("BBox_List_2017.csv", 4, ROWS[0][0], "positive"),
    ),
    "box of no number": (
        {"boxes": [*BOXES, f"{MASS},3,3,nan,4,,,"]},
        ("BBox_List_2017.csv", 4, ROWS[0][0], "finite"),
    ),
    "box of infinite size": (
        {"boxes": [*BOXES, f"{MASS},3,3,4,inf,,,"]},
        ("BBox_List_2017.csv", 4, ROWS[0][0], "finite"),
    ),
    "box with text for a number": (
        {"boxes": [*BOXES, f"{MASS},3,3,wide,4,,,"]},
        ("BBox_List_2017.csv", 4, ROWS[0][0], "four numbers"),
    ),
    "box row cut short": (
        {"boxes": [*BOXES, f"{MASS},3,3"]},
        ("BBox_List_2017.csv", 4, ROWS[0][0], "four numbers"),
    ),
    "box twice": (
        {"boxes": [*BOXES, "00000002_000.png,Cardiomegaly,1,1,5,5,,,"]},
        ("BBox_List_2017.csv", 4, ROWS[2][0], "second box"),
    ),
    "image in both lists": (
        {"lists": {"train_val": [row[0] for row in ROWS], "test": [ROWS[2][0]]}},
        ("test_list.txt", 1, ROWS[2][0], "both official lists"),
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_is_set_aside_and_named(name, release_builder, caplog):
    changes, (file, row, image, word) = PROBLEMS[name]
    root = release_builder(**{"rows": ROWS, "boxes": BOXES, "lists": LISTS} | changes)
    sound = {"absent image": ROWS[::2]}.get(name, ROWS)

    release = read_release(root)
    assert release.records["image"].tolist() == [row[0] for row in sound]
    assert release.records["patient"].tolist() == [row[2] for row in sound]
    assert release.records["path"].str.startswith("images/").all()  # the first folder
    assert release.records["official"].tolist()[-1] == "test"
    assert release.boxes[list("xywh")].to_numpy().tolist() == [
        [1.5, 2.25, 10, 20.125],
        [0, 0, 40, 30],
    ]
    assert len(release.left_out) == 1
    left_out = release.left_out.iloc[0]
    assert (left_out["file"], left_out["image"]) == (file, image)
    assert left_out["row"] == row if row else pd.isna(left_out["row"])
    assert word in left_out["reason"]
    warnings = [entry for entry in caplog.records if entry.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].getMessage().startswith(f"1 x {left_out['reason']}: {file}")

    with pytest.raises(InputError) as error:
        read_release(root, strict=True)
    place = str(root / file) + (f", row {row}: " if row else ": ")
    assert str(error.value).startswith(place + left_out["reason"])
    assert f"({image}); " in str(error.value)
    assert "\n" not in str(error.value)


def test_the_box_of_an_absent_image_goes_with_it(release_builder):
    root = release_builder(ROWS, BOXES, [f"images/{row[0]}" for row in ROWS[:2]])
    release = read_release(root)
    assert release.boxes["image"].tolist() == [ROWS[0][0]]
    assert release.left_out[["file", "row"]].to_numpy().tolist() == [
        ["Data_Entry_2017.csv", 4],
        ["BBox_List_2017.csv", 3],
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"<html>not found</html> and some more",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\0\0\0\0\x05",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff\xff\xff\xff\0\0\0\x05",
    ],
    ids=["empty", "cut short", "another format", "width 0", "width 2^32 - 1"],
)
def test_an_unreadable_header_leaves_the_image_out(release_builder, content):
    root = release_builder(ROWS)
    (root / "images" / ROWS[1][0]).write_bytes(content)
    release = read_release(root)
    assert release.records["image"].tolist() == [ROWS[0][0], ROWS[2][0]]
    assert release.left_out["reason"].str.contains("unreadable header").tolist() == [True]
    with pytest.raises(InputError, match="unreadable header"):
        read_release(root, strict=True)


def test_listed_images_outside_the_table_are_counted_only(release_builder, caplog):
    lists = LISTS | {"test": ["00000002_000.png", *(f"{n}.png" for n in range(5))]}
    root = release_builder(ROWS, lists=lists)
    assert read_release(root).left_out.empty
    assert caplog.records[-1].getMessage() == (
        "5 x listed image not named in the table: test_list.txt row 2 0.png, "
        "test_list.txt row 3 1.png, test_list.txt row 4 2.png, ..."
    )
    with pytest.raises(InputError, match=r"test_list.txt, row 2: listed image"):
        read_release(root, strict=True)


def test_byte_order_mark_blank_lines_and_other_files_do_no_harm(release_builder):
    root = release_builder(ROWS, BOXES, lists=LISTS)
    for path in [*root.glob("*.csv"), *root.glob("*.txt")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    (root / "images/Thumbs.db").write_text("")
    (root / "images/._00000001_000.png").write_text("")
    release = read_release(root, strict=True)
    assert len(release.records) == 3
    assert len(release.boxes) == 2


def test_an_unknown_label_names_the_closest_and_the_known(release_builder):
    root = release_builder([*ROWS, ("x.png", "Fracture", "3")])
    with pytest.raises(InputError, match=r"'Cardiomegali' .*did you mean 'Cardiomegaly'") as error:
        read_release(root, ["Mass", "Cardiomegali"])
    for known in ("Hernia", "Fracture", "No Finding"):
        assert known in str(error.value)
    with pytest.raises(InputError, match="did you mean 'Infiltration'"):
        read_release(root, ["Infiltrate"])
    with pytest.raises(InputError, match="'qqq' is not known"):
        read_release(root, ["qqq"])


def test_a_missing_folder_table_or_column_is_one_clear_line(release_builder, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such release folder"):
        read_release(tmp_path / "nowhere")
    root = release_builder(ROWS, files=[])
    with pytest.raises(InputError, match=r"no image folder.*images_\*/images/"):
        read_release(root)
    table = root / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace("Patient ID", "Patient"))
    with pytest.raises(InputError, match=r"Data_Entry_2017.csv, row 1: no column 'Patient ID'"):
        read_release(root)
    table.write_text("")
    with pytest.raises(InputError, match=r"Data_Entry_2017.csv, row 1: no column 'Image Index'"):
        read_release(root)
    table.unlink()
    with pytest.raises(InputError, match=r"Data_Entry_2017_v2020.csv or Data_Entry_2017.csv"):
        read_release(root)


def test_a_box_list_without_header_loses_no_box_silently(release_builder):
    root = release_builder(ROWS)
    (root / "BBox_List_2017.csv").write_text("\n".join(BOXES))
    with pytest.raises(InputError, match=r"BBox_List_2017.csv, row 1: .*header"):
        read_release(root)


def test_a_release_without_any_image_is_an_error(release_builder):
    root = release_builder(ROWS, files=["images/other.png"])
    with pytest.raises(InputError, match="names 3 images, none of which"):
        read_release(root)


def test_what_is_written_reads_back(release_builder, tmp_path):
    release = read_release(
        release_builder(
            ROWS,
            [*BOXES, "x.png,Mass,1,1,1,1,,,"],
            ["images/s.png"] + [f"images/{row[0]}" for row in ROWS],
        )
    )
    write_release(release, tmp_path / "data")
    records = tables.read(tmp_path / "data/records.parquet", tables.RECORDS)
    assert [list(labels) for labels in records["labels"]] == release.records["labels"].tolist()
    assert records["path"].tolist() == release.records["path"].tolist()
    boxes = tables.read(tmp_path / "data/boxes.parquet", tables.BOXES)
    pd.testing.assert_frame_equal(boxes, release.boxes)
    assert (tmp_path / "data/left_out.csv").read_text() == (
        "file,row,image,reason\n"
        "images/s.png,,s.png,image file not named in the table\n"
        "BBox_List_2017.csv,4,x.png,box of an image that is absent or unknown\n"
    )


def test_a_release_without_boxes_is_written(release_builder, tmp_path):
    write_release(read_release(release_builder(ROWS)), tmp_path)
    assert tables.read(tmp_path / "boxes.parquet", tables.BOXES).empty
