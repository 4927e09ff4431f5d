"""Files that a function has not, although they lie in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import project, serving

HANDLER = "\nasync def handler(request):\n    return 'hello'\n"
IMPORTS = {
    "plain": ("import test_data", "test_data.py"),
    "relative": ("from . import test_data", "test_data.py"),
    "member": ("from .load_test import rows", "load_test.py"),
    "nested": ("import tables.conftest", "tables/conftest.py"),
    "shared": ("import _shared.test_data", "../_shared/test_data.py"),
}
OPTIONAL = "try:\n    import test_data\nexcept ImportError:\n    test_data = None\n"


def test_the_import_of_a_test_says_that_it_is_left_out_and_what_helps(tmp_path: Path) -> None:
    functions = {name: source + HANDLER for name, (source, _) in IMPORTS.items()}
    functions |= {f"{name}/{file}": "rows = []\n" for name, (_, file) in IMPORTS.items()}
    functions |= {"nested/tables/__init__.py": "", "_shared/words.py": ""}
    functions |= {"optional": OPTIONAL + HANDLER, "optional/test_data.py": ""}
    with serving(project(tmp_path, functions)) as server, server.client() as client:
        for name, (_, file) in IMPORTS.items():
            assert client.get(f"/{name}").status_code == 503
            said = f"ModuleNotFoundError: No module named '{Path(file).stem}': files called test_*.py"
            traceback = server.log.partition(f"→ {name} did not start")[0].rpartition("Traceback")[2]
            assert said in traceback, name
        assert client.get("/optional").text == "hello"


@pytest.mark.parametrize("name", ["test_data", "load_test", "conftest"])
def test_a_folder_of_such_a_name_is_imported(tmp_path: Path, name: str) -> None:
    functions = {"hello": f"import {name}\n{HANDLER}", f"hello/{name}/__init__.py": ""}
    with serving(project(tmp_path, functions)) as server, server.client() as client:
        assert client.get("/hello").text == "hello"
