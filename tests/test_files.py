import os
import stat

import pytest

from crosseai.files import replacing


def test_writes_the_file_and_its_folders_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a" / "b" / "table.csv"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["table.csv"]


def test_an_exception_keeps_the_old_file_and_removes_the_new_one(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]
    with pytest.raises(KeyError), replacing(tmp_path / "y"):
        raise KeyError
    assert os.listdir(tmp_path) == ["x"]


def test_replaces_at_once_and_the_last_writer_wins(tmp_path):
    path = tmp_path / "x"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("outer")
        second.write_text("inner")
    assert path.read_text() == "outer"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_file_has_the_mode_that_open_would_give(tmp_path, mask):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "x") as temporary:
            temporary.write_text("")
        (tmp_path / "y").write_text("")
        assert os.umask(mask) == mask  # the mask itself stays
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "xy"}
    assert modes == {0o666 & ~mask}
