"""What `FunctionClient` adds to the server's behaviour: fakes, claims, and no trace."""

from __future__ import annotations

import gc
import linecache
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed

from runtime import ai
from runtime.errors import ConfigError, NotFound
from runtime.testing import FakeSession, FunctionClient, house
from tests.running import HELLO, eventually, project

EMBED = """
import os
from runtime import ai
session = ai.Session(os.environ.get("EMBEDDING_MODEL", "gte-small"))

async def handler(request):
    vector = await session.run(await request.json())
    return {"vector": vector, "usage": session.last_usage}
"""
INJECTED = """
session = ai.Session("mistral")

async def handler(request):
    if "stream" in request.query_params:
        return await session.run(request.query_params["prompt"], stream=True)
    return await session.run(request.query_params["prompt"])
"""
STATE = """
import os
import sys
import util
sys.path.append("/left/behind")
os.environ["LEFT"] = "behind"
count = 0

async def handler(request):
    global count
    count += 1
    import later
    return {"count": count, "util": util.__file__, "later": later.NAME, "secret": os.getenv("HOST_SECRET")}
"""
HOOKS = """
import asyncio
from pathlib import Path
from runtime import wait_until

def note(text):
    with open({path!r}, "a") as file:
        file.write(text + " ")

async def startup():
    note("startup")

def before_unload(reason):
    note(reason)

async def handler(request):
    async def work():
        await asyncio.sleep(0.02)
        note("worked")
    wait_until(work())
"""
FAILS = """
async def handler(request):
    if request.method == "PUT":
        async def pieces():
            yield "a"
            raise ValueError("in a stream")
        return pieces()
    raise ValueError("in a handler")
"""
ECHO = """
async def handler(request): ...

async def websocket(ws):
    await ws.accept()
    async for text in ws.iter_text():
        await ws.send_text(text)
"""
SOURCES = {
    "hello": HELLO,
    "echo": ECHO,
    "claims": "async def handler(request):\n    return request.auth\n",
    "embed": EMBED,
    "chat": INJECTED,
    "state": STATE,
    "state/util.py": "",
    "state/later.py": 'NAME = "later"\n',
    "fails": FAILS,
    "broken": "raise ValueError('at import')\n",
    "variables": "import os\n\nasync def handler(request):\n    return dict(os.environ)\n",
    "variables/.env": "A=own\nB=own\n",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    notes = str(folder / "notes.txt")
    return project(folder, SOURCES | {"hooks": HOOKS.format(path=notes)})


def test_it_greets(root: Path) -> None:
    with FunctionClient("hello", root=root) as client:
        assert client.post("/", json={"name": "Ada"}).json() == {"message": "Hello Ada!"}


def test_it_finds_the_project_of_the_test_that_calls_it(root: Path) -> None:
    test = root / "functions" / "hello" / "test_hello.py"
    source = "from runtime.testing import FunctionClient\nclient = FunctionClient('hello')\n"
    namespace = {"__file__": str(test)}
    exec(compile(source, str(test), "exec"), namespace)  # noqa: S102 - as a test runner does
    client = namespace["client"]
    assert isinstance(client, FunctionClient)
    with client:
        assert client.post("/", json={"name": "you"}).is_success


def test_what_a_function_leaves_is_gone_with_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "not the function's")
    monkeypatch.syspath_prepend(str(root / "functions" / "state"))  # as pytest does with a test's folder
    environ, path, finders = dict(os.environ), sys.path[:], sys.meta_path[:]
    modules, lines, zone = set(sys.modules), set(linecache.cache), time.tzname
    for _ in range(2):
        with FunctionClient("state", root=root) as client:
            first, second = client.get("/").json(), client.get("/").json()
            assert (first["count"], second["count"], first["later"]) == (1, 2, "later")
            assert first["secret"] is None
    assert dict(os.environ) == environ
    assert (sys.path, sys.meta_path, time.tzname) == (path, finders, zone)
    assert not {name for name in set(sys.modules) - modules if "util" in name or "_function" in name}
    assert not {name for name in set(linecache.cache) - lines if str(root) in name}
    assert gc.get_freeze_count() == 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_client_leaves_no_descriptor_thread_or_file(root: Path, tmp_path: Path) -> None:
    def held() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    with FunctionClient("variables", root=root) as client:
        folder = client.get("/").json()["HOME"]
        assert os.path.isdir(folder)
    before = held()
    for _ in range(5):
        with FunctionClient("hello", root=root) as client:
            client.post("/", json={"name": "Ada"})
    after = held()
    assert after[0] <= before[0]
    assert after[1] <= before[1]
    assert not os.path.exists(folder)


def test_its_module_can_be_looked_into_and_patched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FunctionClient("state", root=root) as client:
        client.get("/")
        assert client.module.count == 1
        monkeypatch.setattr(client.module, "count", 41)
        assert client.get("/").json()["count"] == 42
    with (
        FunctionClient("broken", root=root) as client,
        pytest.raises(RuntimeError, match=r"broken did not boot:\n(.|\n)*ValueError: at import"),
    ):
        client.module  # noqa: B018


def test_coverage_is_that_of_the_functions_file(tmp_path: Path) -> None:
    project(tmp_path, {"hello": HELLO})
    (tmp_path / "use.py").write_text(
        "from runtime.testing import FunctionClient\n"
        "with FunctionClient('hello') as client:\n    client.post('/', json={'name': 'Ada'})\n"
    )
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "run", "--source=functions", "use.py"], cwd=tmp_path, check=True)
    report = [*coverage, "report", "--format=total", "--fail-under=100"]
    assert subprocess.run(report, cwd=tmp_path, check=True, capture_output=True).stdout == b"100\n"


def test_one_function_is_open_at_a_time(root: Path) -> None:
    with FunctionClient("hello", root=root) as client:
        with pytest.raises(RuntimeError, match="another FunctionClient is open"):
            FunctionClient("claims", root=root).__enter__()
        assert client.post("/", json={"name": "Ada"}).is_success
    with FunctionClient("claims", root=root) as client:
        assert client.get("/").is_success


def test_outside_its_block_it_does_not_run(root: Path) -> None:
    client = FunctionClient("hello", root=root)
    for use in (lambda: client.get("/"), lambda: client.websocket("/"), client.async_client):
        with pytest.raises(RuntimeError, match="in a `with` block"):
            use()


def test_an_unknown_function_says_which_there_are(root: Path) -> None:
    with pytest.raises(NotFound, match=r"no function 'helo' in .* \(there are: broken, chat"):
        FunctionClient("helo", root=root)


def test_a_project_that_cannot_be_read_is_said_at_once(tmp_path: Path) -> None:
    project(tmp_path, {"hello": "handler = None"}, "[edge_runtime]\nportt = 1\n")
    with pytest.raises(ConfigError, match="portt"):
        FunctionClient("hello", root=tmp_path)


def test_nothing_is_written_into_the_project(tmp_path: Path) -> None:
    project(tmp_path, {"hello": SOURCES["hello"]})
    before = sorted(tmp_path.rglob("*"))
    with FunctionClient("hello", root=tmp_path) as client:
        client.post("/", json={"name": "Ada"})
    assert sorted(tmp_path.rglob("*")) == before


def test_claims_are_the_tokens(root: Path) -> None:
    with FunctionClient("claims", root=root, claims={"sub": "ada", "role": "authenticated"}) as client:
        claims = client.get("/").json()
        assert (claims["sub"], claims["role"]) == ("ada", "authenticated")
        other = {"authorization": f"Bearer {client.token({'sub': 'bob'})}"}
        assert client.get("/", headers=other).json()["sub"] == "bob"
        stale = {"authorization": f"Bearer {client.token({'sub': 'bob', 'exp': 1})}"}
        assert client.get("/", headers=stale).json()["code"] == "UNAUTHORIZED_JWT_EXPIRED"


def test_checks_can_be_switched_off(root: Path) -> None:
    with FunctionClient("claims", root=root, verify_jwt=False) as client:
        assert client.get("/", headers={"authorization": ""}).json() == {}


def test_variables_of_the_test_win(root: Path) -> None:
    with FunctionClient("variables", root=root, env={"B": "the test's", "C": "new"}) as client:
        seen = client.get("/").json()
    assert (seen["A"], seen["B"], seen["C"]) == ("own", "the test's", "new")
    assert seen["SUPABASE_URL"] == "http://127.0.0.1:54321"


def test_keys_and_a_database_of_the_real_project_stay_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JWT_SECRET", "SUPABASE_DB_URL", "SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY"):
        monkeypatch.setenv(name, "a value of the real project, which no test may have")
    with FunctionClient("variables", root=root) as client:
        assert "real project" not in client.get("/").text


def test_what_the_shell_says_to_a_real_server_is_not_said_to_a_test(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("EMBEDDING_MODEL", "AI_INFERENCE_API_HOST", "AI_INFERENCE_API_KEY", "AI_INFERENCE_API_MODE")
    for name in names:
        monkeypatch.setenv(name, "what the shell says")
    monkeypatch.setenv("VERIFY_JWT", "false")
    with FunctionClient("variables", root=root) as client:
        assert "what the shell says" not in client.get("/").text
        assert client.get("/", headers={"authorization": ""}).status_code == 401


def test_hooks_run_and_work_is_done_before_the_block_ends(root: Path) -> None:
    with FunctionClient("hooks", root=root) as client:
        assert client.post("/").status_code == 204
        assert (root / "notes.txt").read_text().split()[0] == "startup"
    assert sorted((root / "notes.txt").read_text().split()) == ["startup", "termination", "worked"]


def test_what_is_raised_can_be_raised_in_the_test(root: Path) -> None:
    with FunctionClient("fails", root=root, raise_errors=True) as client:
        with pytest.raises(ValueError, match="in a handler"):
            client.get("/")
        with pytest.raises(ValueError, match="in a handler"):
            client.post("/")


def test_what_no_request_could_raise_is_raised_at_the_end(root: Path) -> None:
    with (
        pytest.raises(ValueError, match="in a stream"),
        FunctionClient("fails", root=root, raise_errors=True) as client,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        client.put("/")


def test_a_boot_that_fails_can_be_raised_in_the_test(root: Path) -> None:
    with pytest.raises(ValueError, match="at import"), FunctionClient("broken", root=root, raise_errors=True):
        pass
    with FunctionClient("hello", root=root) as client:
        assert client.post("/", json={"name": "Ada"}).is_success


def test_failures_go_to_logging_too(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FunctionClient("fails", root=root) as client:
        client.get("/")
    (record,) = [record for record in caplog.records if record.name == "runtime.testing"]
    assert record.levelname == "ERROR"
    assert "ValueError: in a handler" in record.getMessage()


def test_a_websocket_that_is_left_open_is_closed_as_the_server_closes_it(root: Path) -> None:
    with ExitStack() as stack:
        with FunctionClient("echo", root=root) as client:
            ws = stack.enter_context(client.websocket("/"))
            ws.send("a")
            assert ws.recv() == "a"
        with pytest.raises(ConnectionClosed):
            ws.recv()
        assert ws.close_code == 1001


def test_a_function_that_blocks_does_not_hang_the_test(tmp_path: Path) -> None:
    source = "import threading\n\nasync def handler(request):\n    threading.blocked.wait()\n"
    project(tmp_path, {"blocks": source}, "[edge_runtime]\nshutdown_s = 0.01\n")
    blocked = threading.Event()
    threading.blocked = blocked  # type: ignore[attr-defined]
    try:
        with (
            pytest.raises(RuntimeError, match="something in it blocks the event loop"),
            FunctionClient("blocks", root=tmp_path) as client,
            pytest.raises(httpx2.ReadTimeout),
        ):
            client.get("/", timeout=0.1)
    finally:
        blocked.set()
        del threading.blocked  # type: ignore[attr-defined]
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "function"], "its thread's end")


def test_many_requests_at_once_have_their_own_answers(root: Path) -> None:
    with FunctionClient("hello", root=root) as client, ThreadPoolExecutor(8) as pool:
        names = [f"n{number}" for number in range(40)]
        answers = pool.map(lambda name: client.post("/", json={"name": name}).json()["message"], names)
        assert list(answers) == [f"Hello {name}!" for name in names]


@pytest.mark.anyio
async def test_an_async_test_has_an_async_client(root: Path) -> None:
    with FunctionClient("hello", root=root) as client:
        async with client.async_client() as other:
            answer = await other.post("/", json={"name": "Ada"})
    assert answer.json() == {"message": "Hello Ada!"}


# models


def test_embeddings_work_without_a_model(root: Path) -> None:
    with FunctionClient("embed", root=root) as client:
        answer = client.post("/", json="hello").json()
        assert len(answer["vector"]) == 384
        assert answer["usage"]["tokens"] == 3
        assert client.sessions["gte-small"].calls[0].texts == ["hello"]


def test_a_model_of_the_environment_is_one_too(root: Path) -> None:
    with FunctionClient("embed", root=root, env={"EMBEDDING_MODEL": "mine"}) as client:
        assert len(client.post("/", json="hello").json()["vector"]) == 384
        assert list(client.sessions) == ["mine"]


def test_a_given_model_answers_for_its_name(root: Path) -> None:
    small = FakeSession(dimensions=3)
    with FunctionClient("embed", root=root, sessions={"gte-small": small}) as client:
        assert len(client.post("/", json="hello").json()["vector"]) == 3
    assert [call.texts for call in small.calls] == [["hello"]]


def test_one_model_answers_for_every_name(root: Path) -> None:
    fake = FakeSession(replies=["Hello", " Ada"])
    with FunctionClient("chat", root=root, sessions=fake) as client:
        assert client.get("/", params={"prompt": "Greet Ada"}).json()["response"] == "Hello Ada"
    assert [(call.model, call.prompt) for call in fake.calls] == [("mistral", "Greet Ada")]


def test_an_injected_ai_streams_what_was_scripted(root: Path) -> None:
    fake = FakeSession(replies=["Hello", " Ada"])
    with (
        FunctionClient("chat", root=root, sessions={"mistral": fake}) as client,
        client.stream("GET", "/", params={"stream": "", "prompt": "hi"}) as answer,
    ):
        events = [event for event in answer.iter_lines() if event]
    assert answer.headers["content-type"] == "text/event-stream"
    assert len(events) == 4
    assert events[-1] == "data: [DONE]"


@pytest.mark.parametrize(
    ("replies", "status", "code"),
    [
        (ai.UpstreamError(500, "out of memory"), 502, "UPSTREAM_ERROR"),
        (ai.InferenceTimeout("too slow"), 504, "INFERENCE_TIMEOUT"),
    ],
)
def test_a_scripted_failure_is_answered_like_a_real_one(
    root: Path, replies: ai.AIError, status: int, code: str
) -> None:
    with FunctionClient("chat", root=root, sessions={"mistral": FakeSession(replies=replies)}) as client:
        answer = client.get("/", params={"prompt": "hi"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_the_mode_is_that_of_the_environment(root: Path) -> None:
    fake = FakeSession(replies=["Hello"])
    env = {"AI_INFERENCE_API_HOST": "http://127.0.0.1:9", "AI_INFERENCE_API_MODE": "openaicompatible"}
    with FunctionClient("chat", root=root, sessions=fake, env=env) as client:
        answer = client.get("/", params={"prompt": "hi"}).json()
    assert answer["choices"][0]["message"]["content"] == "Hello"


def test_a_language_model_without_a_script_says_how_to_give_one(root: Path) -> None:
    with FunctionClient("chat", root=root) as client:
        answer = client.get("/", params={"prompt": "hi"})
        assert not answer.is_success
        assert 'sessions={"mistral": FakeSession(replies=["…"])}' in answer.json()["message"]


def test_where_models_are_given_there_are_no_others(root: Path) -> None:
    with FunctionClient("chat", root=root, sessions={"gte-small": FakeSession()}) as client:
        assert client.get("/").status_code == 503
        assert "There is no local model 'mistral' (there are: gte-small" in client.log


def test_a_session_of_before_knows_its_models_again(root: Path) -> None:
    with pytest.raises(ai.ModelNotFound):
        ai.Session("mistral")
    with FunctionClient("chat", root=root, sessions=FakeSession(replies=["x"])):
        pass
    with pytest.raises(ai.ModelNotFound):
        ai.Session("mistral")


SLOW = "import asyncio\nasync def startup():\n    await asyncio.Event().wait()\n" + HELLO
SPINS = """
import time
from pathlib import Path

async def startup():
    while not Path(__file__).with_name("enough").exists():
        time.sleep(0.01)
"""
BOOT = "[ai]\npreload = []\n[functions.hello]\nboot_s = 0.2\n"


def test_a_function_that_takes_too_long_to_load_says_so(tmp_path: Path) -> None:
    root = project(tmp_path, {"hello": SLOW}, BOOT)
    with (
        pytest.raises(RuntimeError, match=r"^hello was not ready within 0\.2 s \(boot_s\)$"),
        FunctionClient("hello", root=root, raise_errors=True),
    ):
        raise AssertionError("it was ready")
    with FunctionClient("hello", root=root) as client:
        assert client.get("/").status_code == 503
        assert "it was not ready within 0.2 s (boot_s): its startup() does not end" in client.log


def test_a_startup_that_blocks_the_loop_holds_no_test_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house, "_MARGIN_S", 0.1)
    root = project(tmp_path, {"hello": SPINS + HELLO}, BOOT)
    with pytest.raises(RuntimeError, match=r"hello was not ready within 0\.3 s: something in its import"):
        FunctionClient("hello", root=root).__enter__()
    (root / "functions/hello/enough").touch()
    eventually(lambda: all(thread.name != "function" for thread in threading.enumerate()), "its end")


@pytest.mark.parametrize(
    "config", ["[functions.hello]\nenabled = false\n", "[edge_runtime]\nenabled = false\n"]
)
def test_a_function_that_is_switched_off_is_not_found(tmp_path: Path, config: str) -> None:
    root = project(tmp_path, {"hello": HELLO}, f"[ai]\npreload = []\n{config}")
    with FunctionClient("hello", root=root) as client:
        assert client.get("/").status_code == 404
