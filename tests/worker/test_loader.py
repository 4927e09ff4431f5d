"""Loading a function from its snapshot. Each case runs in an interpreter of its own, as a worker does."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime.worker.loader import SnapshotFinder, line_of, traceback_of

# Loads the function `name` from the files on standard input and prints what its `result` is.
LOAD = """
import sys, msgspec
from runtime.worker import loader

files, name, entry = msgspec.msgpack.decode(sys.stdin.buffer.read())
try:
    module = loader.load(files, "/nowhere", name, f"{name}/{entry}", {"ai": "injected"}, *sys.argv[1:])
except BaseException as error:
    told = loader.traceback_of(error, "/nowhere")
    result = {"error": type(error).__name__, "text": str(error), "traceback": told}
else:
    result = module.result() if callable(module.result) else module.result
sys.stdout.buffer.write(msgspec.json.encode(result))
"""
Load = Callable[..., Any]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(files: dict[str, str | bytes], name: str = "hello", entry: str = "index.py", *home: str) -> Any:
        encoded = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
        done = subprocess.run(
            [sys.executable, "-I", "-c", LOAD, *home],
            input=msgspec.msgpack.encode((encoded, name, entry)),
            capture_output=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert not any(tmp_path.iterdir()), "something was written"
        return msgspec.json.decode(done.stdout)

    return load


@pytest.mark.parametrize("name", ["test_data", "load_test", "conftest"])
def test_a_test_is_missing_as_others_are_unless_it_lies_there(tmp_path: Path, name: str) -> None:
    finder = SnapshotFinder({"hello/index.py": b""}, str(tmp_path), str(tmp_path), "hello", "", {})
    assert finder.find_spec(f"_function.hello.{name}") is finder.find_spec(name) is None
    (tmp_path / "hello").mkdir()
    (tmp_path / f"hello/{name}.py").touch()
    for fullname in (f"_function.hello.{name}", name):
        with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}': files called test_"):
            finder.find_spec(fullname)
    assert finder.find_spec("_function.hello.other") is None


def test_the_entry_file_is_a_module_with_a_private_name_and_its_own_path(load: Load) -> None:
    source = "result = [__name__, __package__, __file__, __spec__.origin, __spec__.name]"
    assert load({"hello/index.py": source}) == [
        "_function.hello.index",
        "_function.hello",
        "/nowhere/hello/index.py",
        "/nowhere/hello/index.py",
        "_function.hello.index",
    ]


@pytest.mark.parametrize("name", ["hello", "with-hyphens-2", "queue", "runtime", "X"])
@pytest.mark.parametrize("entry", ["index.py", "main.py", "src/deep/main.py"])
def test_any_name_and_any_entry_file_loads(load: Load, name: str, entry: str) -> None:
    assert (
        load(
            {f"{name}/{entry}": "from .near import result", f"{name}/{near(entry)}": "result = 1"},
            name,
            entry,
        )
        == 1
    )


def near(entry: str) -> str:
    return f"{entry.rpartition('/')[0]}/near.py".lstrip("/")


def test_ai_is_there_without_an_import_in_the_entry_file_alone(load: Load) -> None:
    files = {
        "hello/index.py": "from . import other\nresult = [ai, hasattr(other, 'ai')]",
        "hello/other.py": "",
    }
    assert load(files) == ["injected", False]


def test_relative_absolute_and_shared_imports_find_the_same_modules(load: Load) -> None:
    files = {
        "hello/index.py": """
from . import util
from .util import NAME
from .package.inner import up
from .._shared import db
from .._shared.deep import thing
import util as absolute
import package.inner
import _shared.db
from _shared.deep import thing as again
result = [NAME, up is util, util is absolute, package.inner.up is util, db.me is util, db is _shared.db]
result.append(thing is again)
""",
        "hello/util.py": "NAME = 'util'",
        "hello/package/__init__.py": "",
        "hello/package/inner.py": "from .. import util as up",
        "_shared/db.py": "import util as me",
        "_shared/deep/thing.py": "",
    }
    assert load(files) == ["util", True, True, True, True, True, True]


def test_a_module_is_executed_once_however_it_is_imported(load: Load) -> None:
    files = {
        "hello/index.py": "import counted\nfrom . import counted\nfrom _shared import log\nresult = log.seen",
        "hello/counted.py": "from _shared.log import seen\nseen.append(__name__)",
        "_shared/log.py": "seen = []",
    }
    assert load(files) == ["_function.hello.counted"]


def test_an_absolute_import_leaves_the_module_its_own_spec(load: Load) -> None:
    files = {
        "hello/index.py": "import util\nresult = [util.__name__, util.__spec__.name, util.again()]",
        "hello/util.py": "def again():\n    from . import other\n    return other.__name__",
        "hello/other.py": "",
    }
    assert load(files) == ["_function.hello.util", "_function.hello.util", "_function.hello.other"]


def test_modules_that_import_each_other_load(load: Load) -> None:
    files = {
        "hello/index.py": "import one\nresult = [one.two.NAME, one.NAME, one.two.one is one]",
        "hello/one.py": "import two\nNAME = 'one'",
        "hello/two.py": "import one\nNAME = 'two'",
    }
    assert load(files) == ["two", "one", True]


@pytest.mark.parametrize("name", ["queue", "http", "json", "logging", "msgspec", "starlette"])
def test_a_function_or_file_with_a_library_s_name_shadows_nothing(load: Load, name: str) -> None:
    files = {
        f"{name}/index.py": f"import sys\nimport {name}\nfrom . import {name} as mine\n"
        f"result = [{name}.__name__, mine.NAME, sys.modules['{name}'] is {name}]",
        f"{name}/{name}.py": "NAME = 'mine'",
    }
    assert load(files, name) == [name, "mine", True]


def test_another_function_s_files_are_out_of_reach(load: Load) -> None:
    """They are in no snapshot but their own; and what is on the disk is not looked at."""
    source = """
found = []
for name in ("other", "..other", "other.index", "_function.other"):
    try:
        __import__("importlib").import_module(name, __package__)
        found.append(name)
    except ImportError:
        pass
result = found
"""
    assert load({"hello/index.py": source}) == []


def test_packages_go_before_modules_as_python_has_it(load: Load) -> None:
    files = {
        "hello/index.py": "from . import both, plain\nresult = [both.KIND, plain.__path__ is not None]",
        "hello/both.py": "KIND = 'module'",
        "hello/both/__init__.py": "KIND = 'package'",
        "hello/plain/data.txt": "no code",
    }
    assert load(files) == ["package", True]


def test_sources_in_any_encoding_that_python_reads(load: Load) -> None:
    assert load({"hello/index.py": "# coding: latin-1\nresult = 'grün'\n".encode("latin-1")}) == "grün"
    assert load({"hello/index.py": "\ufeffresult = 'grün 火'\r\n".encode()}) == "grün 火"


def test_future_imports_of_ours_are_not_the_function_s(load: Load) -> None:
    assert load({"hello/index.py": "def f(x: int): ...\nresult = f.__annotations__['x'] is int"}) is True


def test_libraries_that_read_sources_get_this_version_s(load: Load) -> None:
    source = """
import inspect

def f():
    return "this"

def result():
    return [inspect.getsource(f), __loader__.get_source(__name__)]
"""
    assert load({"hello/index.py": source}) == ['def f():\n    return "this"\n', source]


def test_a_class_can_be_pickled_and_a_dataclass_resolved(load: Load) -> None:
    source = """
from __future__ import annotations
import dataclasses, pickle, typing

@dataclasses.dataclass
class Point:
    x: int

def result():
    return [pickle.loads(pickle.dumps(Point(1))).x, typing.get_type_hints(Point) == {"x": int}]
"""
    assert load({"hello/index.py": source}) == [1, True]


@pytest.mark.parametrize(
    ("files", "error", "text"),
    [
        ({}, "ImportError", "/nowhere/hello/index.py does not exist"),
        ({"hello/index.py": "import nowhere"}, "ModuleNotFoundError", "No module named 'nowhere'"),
        ({"hello/index.py": "from . import nowhere"}, "ImportError", "cannot import name 'nowhere'"),
        ({"hello/index.py": "from .nowhere import x"}, "ModuleNotFoundError", "nowhere"),
        ({"hello/index.py": "x = ("}, "SyntaxError", "'(' was never closed"),
        ({"hello/index.py": b"x = '\xff'"}, "SyntaxError", "utf-8"),
        ({"hello/index.py": "raise SystemExit(3)"}, "SystemExit", "3"),
    ],
    ids=["missing", "import", "name", "relative", "syntax", "encoding", "exit"],
)
def test_what_does_not_load_says_why(
    load: Load, files: dict[str, str | bytes], error: str, text: str
) -> None:
    told = load(files)
    assert told["error"] == error
    assert text in told["text"]


def test_a_traceback_shows_the_author_s_lines_and_none_of_ours(load: Load) -> None:
    files = {
        "hello/index.py": "from . import util\n\nutil.work()\n",
        "hello/util.py": "def work():\n    raise ValueError('no luck')\n",
    }
    told = load(files)["traceback"].splitlines()
    assert told[0] == "Traceback (most recent call last):"
    assert told[1] == '  File "/nowhere/hello/index.py", line 3, in <module>'
    assert "    util.work()" in told
    assert '  File "/nowhere/hello/util.py", line 2, in work' in told
    assert "    raise ValueError('no luck')" in told
    assert told[-1] == "ValueError: no luck"
    assert not any("loader.py" in line or "importlib" in line for line in told)


def test_a_syntax_error_points_at_the_line(load: Load) -> None:
    told = load({"hello/index.py": "x = 1\ny = 'open\n"})["traceback"]
    assert 'File "/nowhere/hello/index.py", line 2' in told
    assert "y = 'open" in told
    assert told.splitlines()[-1].startswith("SyntaxError: unterminated string literal")


def test_an_error_from_elsewhere_is_told_without_frames() -> None:
    try:
        msgspec.json.decode(b"{")
    except msgspec.DecodeError as error:
        told = traceback_of(error, "/nowhere")
    assert told == "msgspec.DecodeError: Input data was truncated\n"


def test_the_line_that_met_an_error_is_the_author_s_last() -> None:
    with pytest.raises(msgspec.DecodeError) as raised:
        msgspec.json.decode(b"{")
    assert line_of(raised.value, os.path.dirname(__file__)).startswith(f"{__file__}:")
    assert line_of(raised.value, "/nowhere") == ""


# --- files that were written out ----------------------------------------------------------


def test_a_file_that_was_written_out_knows_its_new_place_and_its_traceback_the_old(load: Load) -> None:
    files = {
        "hello/index.py": "from . import near\n"
        "def result():\n"
        "    code = result.__code__.co_filename\n"
        "    return [__file__, near.__file__, __spec__.origin, code]\n",
        "hello/near.py": "",
    }
    assert load(files, "hello", "index.py", "/written") == [
        "/written/hello/index.py",
        "/written/hello/near.py",
        "/written/hello/index.py",
        "/nowhere/hello/index.py",
    ]
    failed = load({"hello/index.py": "1 / 0"}, "hello", "index.py", "/written")
    assert 'File "/nowhere/hello/index.py", line 1' in failed["traceback"]


def test_the_files_of_a_package_are_resources(load: Load) -> None:
    source = """
import importlib.resources
from .views import pages
def result():
    own = importlib.resources.files(__package__) / "page.html"
    return [str(own), str(importlib.resources.files(pages)), str(importlib.resources.files("views") / "x")]
"""
    files = {"hello/index.py": source, "hello/views/pages/__init__.py": ""}
    assert load(files, "hello", "index.py", "/written") == [
        "/written/hello/page.html",
        "/written/hello/views/pages",
        "/written/hello/views/x",
    ]


def test_files_that_are_no_modules_are_not_kept_in_memory() -> None:
    module, page = b"VALUE = 1", bytes(1000)
    finder = SnapshotFinder(
        {"hello/index.py": module, "hello/assets/page": page}, "/p", "/p", "hello", "", {}
    )
    assert any(found is module for found in gc.get_referents(*gc.get_referents(finder)))
    held = gc.get_referents(finder, *gc.get_referents(finder), *gc.get_referents(*gc.get_referents(finder)))
    assert not any(found is page for found in held)
    spec = finder.find_spec("_function.hello.assets")  # its folder is a package all the same
    assert spec is not None
    assert spec.submodule_search_locations is not None
