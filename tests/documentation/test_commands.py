"""Every command of the documentation, run from the top of its page to the end."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.engine.models.catalogue import EMBEDDED
from runtime.engine.models.prepare import prepare
from runtime.engine.models.store import Store
from tests.documentation.pages import PAGES, Block, blocks
from tests.documentation.scene import Scene
from tests.documentation.standin import language_model
from tests.engine import tiny
from tests.hub.conftest import contents
from tests.hub.standin import standing_in


def is_played(block: Block) -> bool:
    if block.kind == "file":
        return True
    return block.language == "sh" and not block.is_shown_only


SCENARIOS = [page for page in PAGES if any(is_played(block) for block in blocks(page))]


@pytest.fixture(scope="module")
def llm() -> Iterator[int]:
    with language_model() as port:
        yield port


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose model store holds the embedded model, ready to load."""
    data = tmp_path_factory.mktemp("data")
    prepare(EMBEDDED, Store(data / "functions" / "models"))
    return data


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a model hub that has a small model under the names that the pages use."""
    folder = tiny.write_folder(tmp_path_factory.mktemp("hub") / "tiny")
    with standing_in() as standin:
        for name in ("sentence-transformers/all-MiniLM-L12-v2", "our/encoder"):
            standin.put(name, contents(folder))
        yield standin.url


@pytest.fixture
def scene(tmp_path: Path, model: Path, llm: int, hub: str) -> Iterator[Scene]:
    data = tmp_path / "data"  # a page may remove models: they are links
    shutil.copytree(model, data, copy_function=os.link)
    scene = Scene(tmp_path, data, llm, hub)
    yield scene
    scene.close()


def expects(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed: `…` stands for anything, and any space for any other."""
    pattern = r".*?".join(re.escape(" ".join(part.split())) for part in shown.split("…"))
    pattern = pattern.replace(r".*?", r"\ ?.*?\ ?")
    return re.fullmatch(pattern, " ".join(printed.split()), re.DOTALL) is not None


@pytest.mark.parametrize("page", SCENARIOS)
def test_the_commands_of_a_page_work_and_print_what_it_shows(page: str, scene: Scene) -> None:
    printed = ""
    for block in blocks(page):
        if is_played(block):
            try:
                printed = scene.play(block)
            except AssertionError as error:
                log = scene.server.log if scene.server else ""
                raise AssertionError(f"{block}: {error}\n{log}") from None
        elif block.is_output:
            assert expects(block.text, printed), (
                f"{block} shows\n{block.text}\nand this was printed\n{printed}"
            )


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ('{"a":1}\n', '{"a":1}', True),
        ("one … three", "one two three", True),
        ("[0.1, …]", "[0.1,0.2,0.3]", True),
        ("[0.1, …]", "[0.2,0.2,0.3]", False),
        ("one\ntwo", "one two\n", True),
        ("one", "one two", False),
    ],
)
def test_what_is_shown_is_compared_with_what_is_printed(shown: str, printed: str, same: bool) -> None:
    assert expects(shown, printed) is same
