"""Files appear whole or not at all."""

import errno
import os
import stat

import pytest

from rph import disk
from rph.errors import RphError


def test_a_file_appears_only_when_its_block_ends_well(tmp_path):
    target = tmp_path / "deep" / "file"
    with disk.new_file(target, "writing") as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    with pytest.raises(ZeroDivisionError), disk.new_file(target, "writing") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_folder_appears_only_when_its_block_ends_well_and_the_first_writer_wins(tmp_path):
    target = tmp_path / "folder"
    with pytest.raises(KeyboardInterrupt), disk.new_folder(target, "writing") as temporary:
        (temporary / "file").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with disk.new_folder(target, "writing") as late:
        (late / "file").write_text("late")
        with disk.new_folder(target, "writing") as early:
            (early / "file").write_text("early")
    assert (target / "file").read_text() == "early"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_is_written_can_be_read_by_whom_the_umask_allows(tmp_path):
    old = os.umask(0o022)
    try:
        with disk.new_folder(tmp_path / "folder", "writing"):
            pass
        with disk.new_file(tmp_path / "file", "writing"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no room to write"),
        (errno.EDQUOT, "no room to write"),
        (errno.EROFS, "cannot be written"),
    ],
)
def test_a_refusal_of_the_disk_says_what_to_do(tmp_path, number, message):
    inside = disk.home() / "cache"
    with pytest.raises(RphError, match=rf"(?s){message}.*fix:.*RPH_HOME"), disk.disk_errors("x", inside):
        raise OSError(number, os.strerror(number))


def test_rph_home_is_no_way_out_for_a_path_outside_it(tmp_path):
    with pytest.raises(RphError) as caught, disk.disk_errors("x", tmp_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    assert caught.value.fix == "name another place, one where you may write"


def test_a_file_in_the_way_of_a_folder_is_told(tmp_path):
    (tmp_path / "home").write_text("a file")
    with (
        pytest.raises(RphError, match="cannot be written"),
        disk.new_file(tmp_path / "home" / "x", "writing"),
    ):
        pass


def test_a_name_that_is_too_long_and_a_folder_that_takes_no_files_are_told(tmp_path):
    for make in (disk.new_file, disk.new_folder):
        with pytest.raises(RphError, match="cannot be written"), make(tmp_path / ("x" * 250), "writing"):
            pass


def test_home_and_offline_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("RPH_HOME", str(tmp_path))
    assert disk.home() == tmp_path
    monkeypatch.delenv("RPH_HOME")
    assert disk.home().name == ".rph"
    for name in ("RPH_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert not disk.offline()
    monkeypatch.setenv("RPH_OFFLINE", "0")
    assert not disk.offline()
    monkeypatch.setenv("RPH_OFFLINE", "1")
    assert disk.offline()
