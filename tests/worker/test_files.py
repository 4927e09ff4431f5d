"""This version's files, on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.worker import files


def test_modules_alone_are_not_written(tmp_path: Path) -> None:
    home = files.write({"hello/index.py": b"", "_shared/db.py": b""}, "/p/functions", str(tmp_path))
    assert home == "/p/functions"
    assert not any(tmp_path.iterdir())


def test_any_other_file_makes_all_of_them_be_written(tmp_path: Path) -> None:
    snapshot = {"hello/index.py": b"code", "hello/deep/page.html": b"\x00page", "_shared/x.py": b""}
    home = Path(files.write(snapshot, "/p/functions", str(tmp_path)))
    assert {path: (home / path).read_bytes() for path in snapshot} == snapshot
    assert home.is_relative_to(tmp_path)


def test_files_from_elsewhere_keep_their_place_beside_the_others(tmp_path: Path) -> None:
    snapshot = {"hello/index.py": b"code", "../../assets/logo.svg": b"logo", "../config/x.json": b"{}"}
    home = Path(files.write(snapshot, "/p/supabase/functions", str(tmp_path)))
    assert home.parts[-2:] == ("supabase", "functions")
    assert (home / "hello/../../../assets/logo.svg").read_bytes() == b"logo"
    assert (home.parent / "config/x.json").read_bytes() == b"{}"
    assert all(path.is_relative_to(tmp_path) for path in tmp_path.rglob("*"))


def test_two_dots_inside_a_name_are_only_a_name(tmp_path: Path) -> None:
    home = files.write({"hello/a..b/..c.txt": b"x"}, "/p/functions", str(tmp_path))
    assert Path(home, "hello/a..b/..c.txt").read_bytes() == b"x"
    assert home == str(tmp_path / "files")


def test_they_are_for_reading(tmp_path: Path) -> None:
    home = files.write({"hello/page.html": b"x"}, "/p/functions", str(tmp_path))
    assert Path(home, "hello/page.html").stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize("path", ["../../../x.txt", "../x.txt/../../../y.txt"])
def test_nothing_is_written_outside_the_workers_folder(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "a" / "worker"
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="does not lie below the root of /p"):
        files.write({"hello/page.html": b"", path: b"x"}, "/p", str(folder))
    assert not [found for found in tmp_path.rglob("*.txt")]
