"""What kills left in the store, and what somebody put there, is in nobody's way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.engine.models.leftovers import FORMER, PARTIAL, SCRATCH, beside
from runtime.engine.models.lock import locked
from runtime.engine.models.prepare import prepare
from runtime.engine.models.remove import removable, remove
from runtime.engine.models.store import Store
from runtime.errors import UsageError
from tests.engine import tiny
from tests.hub.pulling import listed, pulled, sound
from tests.hub.standin import StandIn

NAME, FOLDER = "org/tiny", "org--tiny"
KINDS = (PARTIAL, SCRATCH, FORMER)


def put_folder(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "model.onnx").write_bytes(b"left")


def put_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("left")


def put_link(path: Path) -> None:
    put_folder(path.parent.parent / "elsewhere")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.parent.parent / "elsewhere")


def put_dead_link(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("nowhere")


PUT = pytest.mark.parametrize("put", [put_folder, put_file, put_link, put_dead_link])


@PUT
@pytest.mark.parametrize("place", ["", *KINDS])
def test_nothing_in_the_store_keeps_a_model_out(
    hub: StandIn, store: Store, put: Callable[[Path], None], place: str
) -> None:
    target = store.folder(NAME)
    put(beside(target, place) if place else target)
    pulled(store, NAME)
    assert sound(store) == [NAME]
    assert listed(store) == [FOLDER]
    if put is put_link:
        assert (store.models_dir.parent / "elsewhere" / "model.onnx").read_bytes() == b"left"


@PUT
@pytest.mark.parametrize("place", ["", *KINDS])
def test_whatever_has_a_model_s_place_can_be_removed(
    store: Store, put: Callable[[Path], None], place: str
) -> None:
    target = store.folder(NAME)
    path = beside(target, place) if place else target
    put(path)
    assert removable(store, NAME) == [path]
    remove(store, NAME)
    assert listed(store) == []
    if put is put_link:
        assert (store.models_dir.parent / "elsewhere" / "model.onnx").exists()


def test_a_link_among_the_downloaded_files_is_not_followed(
    hub: StandIn, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("mine")
    partial = beside(store.folder(NAME), PARTIAL)
    partial.mkdir(parents=True)
    (partial / "config.json").symlink_to(tmp_path / "mine")
    pulled(store, NAME)
    assert (tmp_path / "mine").read_text() == "mine"


def test_leftovers_of_a_model_that_is_here_go_with_the_next_pull(hub: StandIn, store: Store) -> None:
    card = pulled(store, NAME)
    for kind in KINDS:
        put_folder(beside(store.folder(NAME), kind))
    with locked(store.folder(NAME)):  # somebody is at work there
        assert pulled(store, NAME) == card
        assert len(listed(store)) == 4
    assert pulled(store, NAME) == card
    assert listed(store) == [FOLDER]


def test_what_was_made_of_a_folder_is_removed_by_its_path(store: Store, tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "mine")
    made = Path(prepare(str(folder), store).folder)
    assert removable(store, str(folder)) == [made]
    remove(store, str(folder))
    assert not made.exists()
    assert folder.is_dir()


def test_a_name_that_no_model_can_have_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="no model name"):
        removable(store, "../mine")
