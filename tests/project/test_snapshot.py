from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.project import snapshot, static
from runtime.project.settings import Function
from runtime.project.snapshot import Snapshot, archive, digest_of, take

from .conftest import Write

PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)
FILES = st.dictionaries(PATHS, st.binary(max_size=40), max_size=6)


def function_at(root: Path, name: str = "hello", entrypoint: str = "index.py") -> Function:
    return Function(name=name, directory=str(root / "functions" / name), entrypoint=entrypoint)


@given(FILES, st.randoms(use_true_random=False))
def test_the_order_of_files_makes_no_difference(files: dict[str, bytes], random: object) -> None:
    paths = list(files)
    random.shuffle(paths)  # type: ignore[attr-defined]
    shuffled = {path: files[path] for path in paths}
    assert digest_of(shuffled, "e") == digest_of(files, "e")
    assert archive(Snapshot("", "", "", shuffled)) == archive(Snapshot("", "", "", files))


@given(FILES, FILES, PATHS, PATHS)
def test_equal_digests_mean_equal_files_and_entry(
    one: dict[str, bytes], other: dict[str, bytes], entry: str, other_entry: str
) -> None:
    same = (one, entry) == (other, other_entry)
    assert (digest_of(one, entry) == digest_of(other, other_entry)) == same


@given(FILES, PATHS, st.binary(max_size=5))
def test_any_change_changes_the_digest(files: dict[str, bytes], path: str, content: bytes) -> None:
    changed = files | {path: content}
    assert (digest_of(changed, "e") == digest_of(files, "e")) == (changed == files)


def test_content_cannot_move_between_path_and_file() -> None:
    assert digest_of({"a": b"bc"}, "e") != digest_of({"ab": b"c"}, "e")
    assert digest_of({"a": b"b", "c": b"d"}, "e") != digest_of({"a": b"bcd"}, "e")


@given(FILES)
def test_an_archive_holds_every_file_unchanged(files: dict[str, bytes]) -> None:
    packed = archive(Snapshot("", "", "", files))
    assert msgspec.msgpack.decode(packed, type=dict[str, bytes]) == files


def test_the_digest_is_sixteen_hexadecimal_digits_that_never_change() -> None:
    assert digest_of({"hello/index.py": b"x = 1\n"}, "hello/index.py") == "dfaa76b13b3c32cd"


def test_a_snapshot_holds_the_folder_and_shared(write: Write) -> None:
    root = write(
        {
            "functions/hello/index.py": "import _shared.db",
            "functions/hello/lib/deep/x.py": "b",
            "functions/hello/page.html": "c",
            "functions/_shared/db.py": "d",
            "functions/other/index.py": "e",
            "functions/loose.py": "f",
        }
    )
    taken = take(function_at(root))
    assert taken.files == {
        "hello/index.py": b"import _shared.db",
        "hello/lib/deep/x.py": b"b",
        "hello/page.html": b"c",
        "_shared/db.py": b"d",
    }
    assert taken.directory == str(root / "functions")
    assert taken.entrypoint == "hello/index.py"
    assert taken.digest == digest_of(taken.files, "hello/index.py")
    for path in taken.files:
        assert Path(taken.directory, path).is_file()


def test_shared_code_is_left_out_where_no_file_names_it(write: Write) -> None:
    root = write({"functions/hello/index.py": "shared = 1", "functions/_shared/db.py": "d"})
    before = take(function_at(root))
    assert set(before.files) == {"hello/index.py"}
    (root / "functions/_shared/db.py").write_text("changed")
    assert take(function_at(root)).digest == before.digest


def test_an_entry_point_in_a_subfolder_keeps_its_path(write: Write) -> None:
    root = write({"functions/hello/src/main.py": ""})
    assert take(function_at(root, entrypoint="src/main.py")).entrypoint == "hello/src/main.py"


def test_a_missing_folder_is_an_empty_snapshot(tmp_path: Path) -> None:
    assert take(function_at(tmp_path)).files == {}


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".env.local",
        ".git/config",
        "__pycache__/index.cpython-311.pyc",
        "old.pyc",
        "venv/lib/x.py",
        ".venv/lib/x.py",
        "node_modules/x.js",
        "index.py~",
        ".#index.py",
        ".index.py.swp",
        "index.py.swp",
        "index.py.tmp",
        "lib/.env",
    ],
)
def test_secrets_caches_and_droppings_of_editors_stay_out(write: Write, name: str) -> None:
    root = write({"functions/hello/index.py": "", f"functions/hello/{name}": "secret"})
    (root / "functions/_shared").mkdir()
    (root / "functions/_shared/.env").write_text("secret")
    assert list(take(function_at(root)).files) == ["hello/index.py"]


def test_links_are_read_inside_the_folder_and_never_outside(write: Write) -> None:
    root = write(
        {
            "secret.txt": "secret",
            "outside/x.py": "secret",
            "functions/hello-more/x.py": "secret",
            "functions/hello/.data/index.py": "a",
        }
    )
    hello = root / "functions/hello"
    (hello / "index.py").symlink_to(".data/index.py")
    (hello / "secret.txt").symlink_to(root / "secret.txt")
    (hello / "near.py").symlink_to("../hello-more/x.py")
    (hello / "outside").symlink_to(root / "outside")
    (hello / "loop").symlink_to(".")
    (hello / "dangling.py").symlink_to("nowhere")
    assert take(function_at(root)).files == {"hello/index.py": b"a"}


def test_a_linked_folder_is_the_function_itself(write: Write) -> None:
    root = write(
        {"elsewhere/index.py": "a", "elsewhere/b.py": "import _shared.c", "functions/_shared/c.py": "c"}
    )
    (root / "functions/hello").symlink_to(root / "elsewhere")
    taken = take(function_at(root))
    assert set(taken.files) == {"hello/index.py", "hello/b.py", "_shared/c.py"}
    assert taken.directory == str(root / "functions")


def test_what_is_no_regular_file_stays_out(write: Write) -> None:
    root = write({"functions/hello/index.py": ""})
    os.mkfifo(root / "functions/hello/pipe")
    assert list(take(function_at(root)).files) == ["hello/index.py"]


def test_too_many_bytes_name_the_biggest_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_BYTES", 1 << 20)
    root = write({"functions/hello/index.py": "x", "functions/_shared/big.bin": "x" * (1 << 20)})
    with pytest.raises(ConfigError) as error:
        take(function_at(root))
    message = str(error.value)
    assert message.startswith(f"{root}/functions/_shared/big.bin: ")
    assert "over 1 MB" in message
    assert "→ move data out" in message


def test_a_name_that_is_not_utf_8_is_refused(write: Write) -> None:
    root = write({"functions/hello/index.py": ""})
    Path(os.fsdecode(os.fsencode(root) + b"/functions/hello/\xff.txt")).write_text("")
    with pytest.raises(ConfigError, match=r"udcff.txt'?: the name of a file is not UTF-8\n  → rename"):
        take(function_at(root))


def test_a_file_that_cannot_be_read_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write({"functions/hello/index.py": "x"})

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigError, match=r"hello/index\.py: cannot be read: Permission denied\n  → make it"):
        take(function_at(root))


def test_a_folder_that_cannot_be_read_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write({"functions/hello/index.py": "x"})

    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ConfigError, match=r"functions/hello: cannot be read: Permission denied\n  → make it"):
        take(function_at(root))


def test_a_file_that_is_saved_meanwhile_is_read_again(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write({"functions/hello/index.py": "old _shared", "functions/_shared/x.py": "old"})
    read_all = snapshot._read_all
    reads: list[object] = []

    def save_after_the_first_read(parent: str, marks: dict[str, snapshot.Mark]) -> dict[str, bytes] | None:
        files = read_all(parent, marks)
        if not reads:
            (root / "functions/hello/index.py").write_text("new _shared")
            (root / "functions/_shared/y.py").write_text("new")
        reads.append(files)
        return files

    monkeypatch.setattr(snapshot, "_read_all", save_after_the_first_read)
    assert take(function_at(root)).files == {
        "hello/index.py": b"new _shared",
        "_shared/x.py": b"old",
        "_shared/y.py": b"new",
    }
    assert len(reads) == 2


def test_a_file_that_vanishes_meanwhile_is_left_out(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write({"functions/hello/index.py": "a", "functions/hello/gone.py": "b"})
    read_all = snapshot._read_all

    def remove_before_the_read(parent: str, marks: dict[str, snapshot.Mark]) -> dict[str, bytes] | None:
        (root / "functions/hello/gone.py").unlink(missing_ok=True)
        return read_all(parent, marks)

    monkeypatch.setattr(snapshot, "_read_all", remove_before_the_read)
    assert take(function_at(root)).files == {"hello/index.py": b"a"}


def test_a_file_that_never_stands_still_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write({"functions/hello/index.py": "a", "functions/hello/log.txt": ""})
    read_all = snapshot._read_all

    def append_before_the_read(parent: str, marks: dict[str, snapshot.Mark]) -> dict[str, bytes] | None:
        with open(root / "functions/hello/log.txt", "a") as log:
            log.write("line\n")
        return read_all(parent, marks)

    monkeypatch.setattr(snapshot, "_read_all", append_before_the_read)
    monkeypatch.setattr(snapshot, "_PAUSE_S", 0)
    with pytest.raises(
        ConfigError, match=r"log\.txt: keeps changing while it is read\n  → write data outside"
    ):
        take(function_at(root))


def test_files_saved_by_renaming_are_never_seen_half(write: Write) -> None:
    root = write({"functions/hello/index.py": "0" * 100_000})
    file, stop = root / "functions/hello/index.py", threading.Event()

    def save_again_and_again() -> None:
        for digit in "123456789" * 20:
            if stop.wait(0.005):
                return
            fresh = file.with_suffix(".tmp")
            fresh.write_text(digit * 100_000)
            fresh.replace(file)

    saver = threading.Thread(target=save_again_and_again)
    saver.start()
    try:
        for _ in range(20):
            try:
                content = take(function_at(root)).files["hello/index.py"]
            except ConfigError:
                continue
            assert len(content) == 100_000
            assert len(set(content)) == 1
    finally:
        stop.set()
        saver.join()


def test_a_snapshot_shows_no_file_in_its_repr(write: Write) -> None:
    taken = take(function_at(write({"functions/hello/index.py": "hunter2"})))
    assert "hunter2" not in repr(taken)


def test_test_files_are_no_part_of_a_snapshot(write: Write) -> None:
    root = write(
        {
            "functions/hello/index.py": "a",
            "functions/hello/test_hello.py": "b",
            "functions/hello/hello_test.py": "c",
            "functions/hello/lib/conftest.py": "d",
            "functions/hello/testing.py": "e",
            "functions/hello/test_data.json": "f",
        }
    )
    before = take(function_at(root))
    assert set(before.files) == {"hello/index.py", "hello/testing.py", "hello/test_data.json"}
    (root / "functions/hello/test_hello.py").write_text("changed")
    assert take(function_at(root)) == before


def test_an_entry_file_is_taken_whatever_it_is_called(write: Write) -> None:
    root = write({"functions/hello/test_main.py": "a", "functions/hello/test_other.py": "b"})
    assert set(take(function_at(root, entrypoint="test_main.py")).files) == {"hello/test_main.py"}


def test_static_patterns_are_walked_once_for_every_look(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write({"functions/hello/index.py": "", "functions/_shared/a.py": "", "page.html": ""})
    walks, find = list[str](), static.find

    def counted(function: Function) -> static.Found:
        walks.append(function.name)
        return find(function)

    monkeypatch.setattr(static, "find", counted)
    files = ("page.html", "functions/_shared/a.py")
    asked = Function(name="hello", directory=f"{root}/functions/hello", root=str(root), static_files=files)
    assert set(take(asked).files) == {"hello/index.py", "../page.html", "_shared/a.py"}
    assert len(walks) == 2  # before and after the reading
