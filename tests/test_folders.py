"""Folders that a function fills."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime import folders

MEGABYTE = 1 << 20
PLENTY = 1 << 40


def fill(path: Path, size: int = MEGABYTE) -> Path:
    path.write_bytes(os.urandom(size))
    with path.open("rb") as file:
        os.fsync(file.fileno())  # until then some file systems have given it no blocks
    return path


def nest(folder: Path, levels: int) -> None:
    """Folders in folders, deeper than any path can say."""
    handle = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("deeper", dir_fd=handle)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)


def test_files_at_every_level_count(tmp_path: Path) -> None:
    fill(tmp_path / "here")
    (tmp_path / "a" / "b").mkdir(parents=True)
    fill(tmp_path / "a" / "b" / "there")
    assert 2 * MEGABYTE <= folders.size_of(str(tmp_path), stop_at=PLENTY) < 2 * MEGABYTE + 100_000


def test_a_file_of_many_names_counts_once(tmp_path: Path) -> None:
    first = fill(tmp_path / "first")
    for number in range(10):
        os.link(first, tmp_path / str(number))
    assert MEGABYTE <= folders.size_of(str(tmp_path), stop_at=PLENTY) < MEGABYTE + 100_000


def test_holes_take_nothing(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 33)
    assert folders.size_of(str(tmp_path), stop_at=PLENTY) < 100_000


def test_empty_files_cannot_be_had_for_nothing(tmp_path: Path) -> None:
    """A disk can run out of names before it runs out of bytes."""
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert folders.size_of(str(tmp_path), stop_at=PLENTY) == 100 * 4096


def test_links_are_not_followed(tmp_path: Path) -> None:
    fill(tmp_path / "outside")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "folder" / "loop").symlink_to(tmp_path)
    assert folders.size_of(str(tmp_path / "folder"), stop_at=PLENTY) == 2 * 4096
    (tmp_path / "itself").symlink_to(tmp_path)
    assert folders.size_of(str(tmp_path / "itself"), stop_at=PLENTY) == 0


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert folders.size_of(str(tmp_path), stop_at=PLENTY) == 4096


def test_it_stops_once_it_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (tmp_path / str(number)).touch()
    looked_at: list[int] = []
    add = folders._Tally.add

    def counted(self: folders._Tally, found: os.stat_result) -> None:
        looked_at.append(found.st_ino)
        add(self, found)

    monkeypatch.setattr(folders._Tally, "add", counted)
    assert folders.size_of(str(tmp_path), stop_at=10 * 4096) == 10 * 4096
    assert len(looked_at) == 10


def test_folders_too_deep_to_look_into_count_as_too_much(tmp_path: Path) -> None:
    nest(tmp_path, 60)
    assert folders.size_of(str(tmp_path), stop_at=PLENTY) < MEGABYTE
    (tmp_path / "more").mkdir()
    nest(tmp_path / "more", 1500)
    before = len(os.listdir("/dev/fd"))
    assert folders.size_of(str(tmp_path), stop_at=PLENTY) == PLENTY
    assert len(os.listdir("/dev/fd")) <= before
    assert folders.remove(str(tmp_path / "more"))


def test_a_folder_that_is_gone_is_empty(tmp_path: Path) -> None:
    assert folders.size_of(str(tmp_path / "gone"), stop_at=PLENTY) == 0


def test_removal_leaves_nothing_and_touches_nothing_else(tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside", 10)
    folder = tmp_path / "folder"
    for name in ("a", "a/b", "c"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").touch()
    (folder / "link").symlink_to(outside)
    (folder / "c" / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "a" / "pipe")
    assert folders.remove(str(folder))
    assert os.listdir(tmp_path) == ["outside"]
    assert outside.stat().st_size == 10


def test_removal_goes_to_any_depth(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    nest(folder, 3000)
    assert folders.remove(str(folder))
    assert not folder.exists()


def test_removal_enters_folders_closed_to_their_owner(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for closed in ("a/b", "a", "."):
        (folder / closed).mkdir(parents=True, exist_ok=True)
        (folder / closed / "file").touch()
    for closed, mode in (("a/b", 0o000), ("a", 0o500), (".", 0o000)):
        (folder / closed).chmod(mode)
    assert folders.remove(str(folder))


def test_removal_of_what_is_gone_is_fine(tmp_path: Path) -> None:
    assert folders.remove(str(tmp_path / "gone"))


def test_removal_gives_up_in_time(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    assert not folders.remove(str(tmp_path / "folder"), seconds=0)
