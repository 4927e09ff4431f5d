"""The server's metrics as a collector gets them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
from prometheus_client import Metric, parser
from prometheus_client.openmetrics import parser as openmetrics

from runtime import frames
from runtime.errors import memory_exceeded
from runtime.gateway.exposition import OPENMETRICS, PLAIN
from runtime.gateway.metrics import BOUNDS
from runtime.gateway.scrape import FAMILIES, housemates
from runtime.project.settings import Project
from tests.gateway.asgi import Answer
from tests.gateway.house import House, Link, until
from tests.gateway.projects import Site, functions, project
from tests.gateway.test_app import asked, bearer

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).parents[2]
Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def loaded(tmp_path: Path) -> Project:
    return project(tmp_path, functions("hello", "other"))


@pytest.fixture
async def site(house: House, loaded: Project) -> AsyncIterator[Site]:
    site = Site(house, loaded)
    await site.registry.apply(loaded)
    await site.registry.settled()
    yield site
    await site.registry.close(0, "test")


async def change(site: Site, root: Path) -> None:
    """A new version of `hello`."""
    files = {"functions/hello/index.py": "handler = print\n"}
    await site.registry.apply(await asyncio.to_thread(project, root, files))
    await site.registry.settled()


async def scraped(site: Site, *headers: tuple[str, str]) -> Answer:
    return await asked(site, "/_internal/metrics", bearer("service_role"), *headers)


async def numbers(site: Site) -> Numbers:
    """Every sample of the page."""
    page = (await scraped(site)).body.decode()
    families = list(parser.text_string_to_metric_families(page))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def of(numbers: Numbers, name: str, **labels: str) -> float:
    return numbers[name, frozenset(labels.items())]


async def number(site: Site, name: str, **labels: str) -> float:
    return of(await numbers(site), name, **labels)


@pytest.mark.parametrize("headers", [(), (bearer("anon"),)], ids=["nobody", "anon"])
async def test_metrics_are_for_the_service_role_alone(
    site: Site, headers: tuple[tuple[str, str], ...]
) -> None:
    assert (await asked(site, "/_internal/metrics", *headers)).status == 401


@pytest.mark.parametrize(
    ("accept", "form", "parse"),
    [
        ("*/*", PLAIN, parser.text_string_to_metric_families),
        ("application/openmetrics-text", OPENMETRICS, openmetrics.text_string_to_metric_families),
    ],
)
async def test_every_metric_can_be_read_in_both_formats(
    site: Site, accept: str, form: str, parse: Callable[[str], Iterable[Metric]]
) -> None:
    for name in ("hello", "none", "other"):
        await asked(site, f"/functions/v1/{name}", bearer())
    answer = await scraped(site, ("accept", accept))
    assert (b"content-type", form.encode()) in answer.headers
    found = {family.name: family.type for family in parse(answer.body.decode())}
    assert found == {family.name: family.kind for family, _ in FAMILIES}


async def test_answers_are_counted_for_their_function_by_class_of_status(house: House, site: Site) -> None:
    async def serve(link: Link, head: object) -> None:
        link.answer(status=404)

    await asked(site, "/functions/v1/hello", bearer())
    await asked(site, "/functions/v1/hello")
    house.serve = serve
    await asked(site, "/functions/v1/hello", bearer())
    found = await numbers(site)
    counted = {name: of(found, "functions_requests_total", function="hello", **{"class": name}) for name in
               ("2xx", "4xx", "5xx")}  # fmt: skip
    assert counted == {"2xx": 1, "4xx": 2, "5xx": 0}
    code = "UNAUTHORIZED_NO_AUTH_HEADER"
    assert of(found, "functions_errors_total", function="hello", code=code) == 1
    assert of(found, "functions_requests_total", function="other", **{"class": "2xx"}) == 0


async def test_durations_are_a_histogram_for_each_function(site: Site) -> None:
    for _ in range(3):
        await asked(site, "/functions/v1/hello", bearer())
    found = await numbers(site)
    labels = {"function": "hello", "class": "2xx"}
    name = "functions_request_duration_seconds"
    buckets = [of(found, f"{name}_bucket", le=repr(float(bound)), **labels) for bound in BOUNDS]
    assert buckets == sorted(buckets)
    assert of(found, f"{name}_bucket", le="+Inf", **labels) == of(found, f"{name}_count", **labels) == 3
    first = of(found, "functions_first_byte_seconds_sum", function="hello")
    assert 0 < first <= of(found, f"{name}_sum", **labels)
    unasked = {name for name, labels in found if ("function", "other") in labels}
    assert not [name for name in unasked if name.endswith("_bucket")]


async def test_what_reaches_no_function_has_no_label_of_its_own(site: Site) -> None:
    for name in ("none", "nobody", "..%2f"):
        await asked(site, f"/functions/v1/{name}", bearer())
    found = await numbers(site)
    assert of(found, "functions_unrouted_requests_total", **{"class": "4xx"}) == 3
    assert {dict(labels).get("function") for _, labels in found} == {None, "hello", "other"}


async def test_what_runs_and_waits_is_a_gauge(house: House, site: Site) -> None:
    release = asyncio.Event()

    async def serve(link: Link, head: object) -> None:
        link.accept()
        await release.wait()
        link.answer()

    house.serve = serve
    asking = asyncio.create_task(asked(site, "/functions/v1/hello", bearer()))
    await until(lambda: any(worker.heads for worker in house.workers))
    assert await number(site, "functions_requests_in_flight", function="hello") == 1
    release.set()
    await asking
    assert await number(site, "functions_requests_in_flight", function="hello") == 0


async def test_a_function_is_in_one_state(site: Site) -> None:
    found = await numbers(site)
    states = {dict(labels)["state"]: value for (name, labels), value in found.items()
              if name == "functions_state" and ("function", "hello") in labels}  # fmt: skip
    assert [state for state, value in states.items() if value] == ["ready"]
    assert len(states) > 3


async def test_requests_that_a_limit_ended_are_counted_by_its_key(house: House, site: Site) -> None:
    reported = iter(("cpu_ms", "cpu_ms", "something else"))

    async def serve(link: Link, head: object) -> None:
        link.accept()
        link.send(frames.Failure("WORKER_LIMIT", "why", next(reported)))

    house.serve = serve
    for _ in range(3):
        assert (await asked(site, "/functions/v1/hello", bearer())).status == 546
    found = await numbers(site)
    assert of(found, "functions_limits_exceeded_total", function="hello", limit="cpu_ms") == 2
    assert of(found, "functions_errors_total", function="hello", code="WORKER_LIMIT") == 3
    assert not [labels for _, labels in found if ("limit", "something else") in labels]


async def test_a_request_ends_with_its_worker_by_a_limit(house: House, site: Site) -> None:
    async def serve(link: Link, head: object) -> None:
        link.accept()
        site.registry.deployments[0].workers[0].condemn(memory_exceeded(5))

    house.serve = serve
    assert (await asked(site, "/functions/v1/hello", bearer())).status == 546
    found = await numbers(site)
    assert of(found, "functions_limits_exceeded_total", function="hello", limit="memory_mb") == 1
    assert of(found, "functions_stops_total", function="hello", limit="memory_mb") == 1


async def test_boots_and_losses_of_workers_are_counted(house: House, site: Site) -> None:
    pid = site.registry.deployments[0].pool.workers[0].pid  # type: ignore[union-attr]
    next(worker for worker in house.workers if worker.pid == pid).die()
    deployment = site.registry.deployments[0]
    await until(lambda: deployment.series.boots == 2)
    found = await numbers(site)
    assert of(found, "functions_restarts_total", function="hello") == 1
    assert of(found, "functions_boot_seconds_count", function="hello") == 2
    assert of(found, "functions_workers", function="hello", state="serving") == 1


async def test_workers_that_finish_what_they_have_are_counted_apart(
    house: House, site: Site, tmp_path: Path
) -> None:
    release = asyncio.Event()

    async def serve(link: Link, head: object) -> None:
        link.accept()
        await release.wait()
        link.answer()

    house.serve = serve
    house.on_drain = lambda worker: None
    asking = asyncio.create_task(asked(site, "/functions/v1/hello", bearer()))
    await until(lambda: any(worker.heads for worker in house.workers))
    await change(site, tmp_path)
    found = await numbers(site)
    assert of(found, "functions_workers", function="hello", state="serving") == 1
    assert of(found, "functions_workers", function="hello", state="draining") == 1
    assert of(found, "functions_requests_in_flight", function="hello") == 1
    release.set()
    await asking
    for worker in house.living:
        if worker.drains:
            worker.die(0)
    await until(lambda: len(site.registry.deployments[0].pools) == 1)
    assert await number(site, "functions_workers", function="hello", state="draining") == 0


async def test_the_numbers_of_a_function_go_with_it(site: Site, tmp_path: Path) -> None:
    await asked(site, "/functions/v1/hello", bearer())
    await asyncio.to_thread(shutil.rmtree, tmp_path / "functions/hello")
    await site.registry.apply(await asyncio.to_thread(project, tmp_path, {}))
    assert {dict(labels).get("function") for _, labels in await numbers(site)} == {None, "other"}


async def test_a_function_keeps_its_numbers_through_its_versions(site: Site, tmp_path: Path) -> None:
    await asked(site, "/functions/v1/hello", bearer())
    await change(site, tmp_path)
    await asked(site, "/functions/v1/hello", bearer())
    assert await number(site, "functions_requests_total", function="hello", **{"class": "2xx"}) == 2


def test_every_metric_is_documented_and_nothing_else() -> None:
    page = (REPOSITORY / "docs/metrics.md").read_text()
    told = re.findall(r"^\| `(\w+)(\{.*\})?` \| (\w+) \|", page, re.MULTILINE)
    assert [(name, kind) for name, _, kind in told] == [(it.series, it.kind) for it, _ in FAMILIES]


def test_who_is_not_of_the_server_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", os.getpid)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        mates = housemates()
        stranger.kill()
    assert not {os.getpid(), stranger.pid} & {*mates.values()}
