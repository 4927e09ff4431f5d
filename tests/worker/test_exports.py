"""What `index.py` exports, and what is said when that is wrong."""

from __future__ import annotations

from types import ModuleType

import pytest

from runtime.worker.exports import Exports, exports_of

HANDLER = "async def handler(request): ...\n"
APP = "async def app(scope, receive, send): ...\n"


def exported(source: str) -> Exports:
    module = ModuleType("index")
    exec(source, module.__dict__)  # noqa: S102 - it stands for a file
    return exports_of(module, "/functions/f/index.py")


def test_a_handler_may_have_everything_beside_it() -> None:
    found = exported(
        HANDLER
        + "async def websocket(ws): ...\ndef startup(): ...\n"
        + "async def before_unload(reason): ...\napp = None\n"
    )
    assert found.handler is not None
    assert found.app is None
    names = [hook.__name__ for hook in (found.websocket, found.startup, found.before_unload) if hook]
    assert names == ["websocket", "startup", "before_unload"]


def test_an_app_may_have_hooks_beside_it() -> None:
    found = exported(APP + "def startup(): ...\ndef before_unload(reason, more=1): ...\nhandler = 5\n")
    assert found.handler is None
    assert found.app is not None
    assert found.startup is not None
    assert found.before_unload is not None


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "exports neither `handler` nor `app`: define `async def handler(request)`"),
        (HANDLER + APP, "exports both `handler` and `app`: keep one of them"),
        ("handler = 5", "exports `handler`, which cannot be called, for it is of type int"),
        ("app = []", "exports `app`, which cannot be called, for it is of type list"),
        ("class handler: ...", "`handler` is a class: define `async def handler(request)`"),
        ("async def handler(): ...", "`handler` cannot be called as `async def handler(request)`: too many"),
        ("def handler(request, other): ...", "missing a required argument: 'other'"),
        (HANDLER + "websocket = 5", "`websocket` is of type int: define `async def websocket(ws)`"),
        (HANDLER + "def websocket(ws): ...", "`websocket` must be asynchronous"),
        (HANDLER + "async def websocket(): ...", "`websocket` cannot be called as"),
        (APP + "async def websocket(ws): ...", "exports `websocket` beside `app`, which handles its own"),
        (HANDLER + "startup = 'now'", "`startup` is of type str: define `async def startup()`, or rename it"),
        (HANDLER + "def startup(app): ...", "`startup` cannot be called as `async def startup()`: missing"),
        (HANDLER + "class startup: ...", "`startup` is a class"),
        (HANDLER + "async def before_unload(): ...", "`before_unload` cannot be called as `async def before"),
        (APP + "async def before_unload(a, b): ...", "`before_unload` cannot be called as"),
        (APP + "before_unload = 1.5", "`before_unload` is of type float"),
    ],
)
def test_a_wrong_export_is_named_with_what_it_should_be(source: str, said: str) -> None:
    with pytest.raises(ImportError) as failure:
        exported(source)
    assert str(failure.value).startswith("/functions/f/index.py")
    assert said in str(failure.value)


def test_modules_of_these_names_are_no_exports() -> None:
    source = "import types\nwebsocket = startup = app = types.ModuleType('websocket')\n"
    assert exported(HANDLER + source).websocket is None
    assert exported(APP + source.replace("= app", "")).startup is None


def test_an_app_may_use_our_names_for_its_own_routes_and_hooks() -> None:
    """FastAPI and Litestar programs are full of functions of these names."""
    source = """
class App:
    def __init__(self):
        self.routes, self.on_startup = [], []
    async def __call__(self, scope, receive, send): ...
class Route:
    def __init__(self, endpoint):
        self.endpoint = endpoint
app = App()
async def websocket(ws): ...
async def startup(): ...
app.routes.append(Route(websocket))
app.on_startup.append(startup)
"""
    found = exported(source)
    assert found.websocket is None
    assert found.startup is None
    assert exported(APP + "class websocket: ...").websocket is None


def test_a_wrapped_socket_function_may_be_a_plain_one() -> None:
    source = """
import functools
def logged(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper
@logged
async def websocket(ws): ...
"""
    assert exported(HANDLER + source).websocket is not None


def test_a_decorator_may_bring_arguments_of_its_own() -> None:
    source = """
import functools
def with_database(function):
    @functools.wraps(function)
    async def wrapper(request):
        return await function(request, "database")
    return wrapper
@with_database
async def handler(request, database): ...
"""
    assert exported(source).handler is not None


def test_what_tells_no_signature_is_taken_as_it_is() -> None:
    assert exported(HANDLER + "before_unload = max").before_unload is max
