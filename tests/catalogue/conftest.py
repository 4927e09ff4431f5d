"""A server for the catalogue: one of its own, or any that serves `tests/catalogue/project.py`.

python -m pytest tests/catalogue --base-url https://HOST/functions/v1 --anon-key KEY --service-key KEY
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.catalogue.place import Place, RawWire, Serve
from tests.catalogue.project import lay_out, lay_out_some
from tests.running import Server, serving

HERE = Path(__file__).parent
PENDING = "pending(part): what the server does not do yet; the test fails until it does, and must"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("catalogue")
    group.addoption("--base-url", default="", help="address of the functions of a running server")
    group.addoption("--anon-key", default="", help="its anon key")
    group.addoption("--service-key", default="", help="its service role key")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", PENDING)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and (mark := item.get_closest_marker("pending")):
            item.add_marker(pytest.mark.xfail(strict=True, reason=f"not built yet: {mark.args[0]}"))


@contextlib.contextmanager
def reachable_folder() -> Iterator[Path]:
    """A folder that workers can reach whichever user they run as; pytest's own are private."""
    folder = Path(tempfile.mkdtemp(prefix="functions-catalogue-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def base_url(config: pytest.Config) -> str:
    url: str = config.getoption("--base-url", default="")
    return url


@pytest.fixture(scope="package")
def place(pytestconfig: pytest.Config) -> Iterator[Place]:
    """Where the functions are."""
    if url := base_url(pytestconfig):
        keys = [pytestconfig.getoption(option) for option in ("--anon-key", "--service-key")]
        yield Place(url, *keys)
        return
    with reachable_folder() as folder, serving(lay_out(folder)) as server:
        yield Place(server.functions, server.token(), server.token("service_role"), server)


@pytest.fixture(scope="module")
def serve(pytestconfig: pytest.Config) -> Iterator[Serve]:
    """Starts servers with a few of the functions, which the test may save files of, and stop."""
    if base_url(pytestconfig):
        pytest.skip("needs a server that it may stop")
    with contextlib.ExitStack() as stack:

        def start(*functions: str, config: str = "") -> Server:
            folder = stack.enter_context(reachable_folder())
            return stack.enter_context(serving(lay_out_some(folder, *functions, config=config)))

        yield start


@pytest.fixture
def client(place: Place) -> Iterator[httpx2.Client]:
    with place.client() as client:
        yield client


@pytest.fixture
def wire(place: Place) -> Iterator[RawWire]:
    wire = place.wire()
    yield wire
    wire.close()
