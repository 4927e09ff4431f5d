"""The server's metrics: which there are, and where their numbers come from."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, get_args

from runtime import proc
from runtime.gateway.deployment import Deployment
from runtime.gateway.exposition import Family, Labels, Sample, bound, lines
from runtime.gateway.metrics import Series, count, cumulated, total
from runtime.gateway.pool import State
from runtime.version import __version__

_STARTED = time.time()
_LINES_AT_ONCE = 400  # half a millisecond of the event loop


class View(NamedTuple):
    """What is there to be measured.

    Attributes:
        unrouted: requests that reached no function.
        resident: bytes by pid.
        processes: the server's own: pid by name.
    """

    deployments: list[Deployment]
    unrouted: Series
    engine_up: bool
    resident: dict[int, int]
    processes: dict[str, int]


async def view(deployments: list[Deployment], unrouted: Series, *, engine_up: bool) -> View:
    """Look at everything; /proc is read on a thread."""
    pids = [worker.pid for deployment in deployments for worker in deployment.workers]

    def look() -> tuple[dict[int, int], dict[str, int]]:
        processes = housemates()
        return {pid: proc.resident(pid) for pid in (*pids, *processes.values())}, processes

    return View(deployments, unrouted, engine_up, *await asyncio.to_thread(look))


def housemates() -> dict[str, int]:
    """The server's own processes: pid by name. (The supervisor is our parent, and that of the others.)"""
    supervisor = os.getppid()
    pids = (supervisor, *proc.children(supervisor)) if proc.lists_children() else ()
    named = {proc.read(f"/proc/{pid}/comm").decode(errors="replace").strip(): pid for pid in pids}
    return {name.removeprefix("fn-"): pid for name, pid in named.items() if name.startswith("fn-")}


async def page(view: View, form: str) -> bytes:
    """The page in one of the two formats; requests are served while it is written."""
    text: list[str] = []
    for line in lines(((family, read(view)) for family, read in FAMILIES), form):
        text.append(line)
        if len(text) % _LINES_AT_ONCE == 0:
            await asyncio.sleep(0)
    return "".join(text).encode()


def _of(deployment: Deployment, *more: tuple[str, str]) -> Labels:
    return (("function", deployment.name), *more)


def _each(value: Callable[[Deployment], float]) -> Callable[[View], Iterable[Sample]]:
    """One number for each function."""
    return lambda view: (Sample(_of(deployment), value(deployment)) for deployment in view.deployments)


def _histogram(labels: Labels, histogram: list[float]) -> list[Sample]:
    steps = cumulated(histogram)  # read at once: the parts must agree
    samples = [Sample((*labels, ("le", bound(upper))), seen, "_bucket") for upper, seen in steps]
    return [*samples, Sample(labels, steps[-1][1], "_count"), Sample(labels, total(histogram), "_sum")]


def _requests(view: View) -> Iterator[Sample]:
    for deployment in view.deployments:
        for name, number in deployment.series.requests.items():
            yield Sample(_of(deployment, ("class", name)), number)


def _durations(view: View) -> Iterator[Sample]:
    for deployment in view.deployments:
        for index, histogram in enumerate(deployment.series.durations):
            if count(histogram):
                yield from _histogram(_of(deployment, ("class", f"{index}xx")), histogram)


def _first_bytes(view: View) -> Iterator[Sample]:
    for deployment in view.deployments:
        if count(deployment.series.first_byte):
            yield from _histogram(_of(deployment), deployment.series.first_byte)


def _errors(view: View) -> Iterator[Sample]:
    for deployment in view.deployments:
        for code, number in tuple(deployment.series.errors.items()):
            yield Sample(_of(deployment, ("code", code)), number)


def _limits(view: View) -> Iterator[Sample]:
    for deployment in view.deployments:
        for limit, number in tuple(deployment.series.limits.items()):
            yield Sample(_of(deployment, ("limit", limit)), number)


def _stops(view: View) -> Iterator[Sample]:
    for deployment in view.deployments:
        for limit, number in tuple(deployment.series.stops.items()):
            yield Sample(_of(deployment, ("limit", limit)), number)


def _unrouted(view: View) -> Iterator[Sample]:
    for name, number in view.unrouted.requests.items():
        yield Sample((("class", name),), number)


def _states(view: View) -> Iterator[Sample]:
    for deployment in view.deployments:
        for state in get_args(State):
            yield Sample(_of(deployment, ("state", state)), int(deployment.state == state))


def _generations(view: View) -> Iterator[Sample]:
    for deployment in view.deployments:
        if deployment.pool is not None:
            yield Sample(_of(deployment, ("generation", deployment.pool.generation.name)), 1)


def _workers(view: View) -> Iterator[Sample]:
    for deployment in view.deployments:
        serving = len(deployment.pool.workers) if deployment.pool is not None else 0
        yield Sample(_of(deployment, ("state", "serving")), serving)
        yield Sample(_of(deployment, ("state", "draining")), len(deployment.workers) - serving)


def _boots(view: View) -> Iterator[Sample]:
    for deployment in view.deployments:
        yield Sample(_of(deployment), deployment.series.boots, "_count")
        yield Sample(_of(deployment), deployment.series.boot_s, "_sum")


def _memory(view: View) -> Iterator[Sample]:
    for deployment in view.deployments:
        resident = sum(view.resident.get(worker.pid, 0) for worker in deployment.workers)
        yield Sample(_of(deployment), resident)


def _processes(view: View) -> Iterator[Sample]:
    for name, pid in view.processes.items():
        yield Sample((("process", name),), view.resident.get(pid, 0))


FAMILIES: tuple[tuple[Family, Callable[[View], Iterable[Sample]]], ...] = (
    (Family("functions_requests", "counter", "Requests to a function that were answered, by class of "
        "status."), _requests),
    (Family("functions_request_duration_seconds", "histogram", "Time from a request's head to the end of "
        "its answer, by class of status."), _durations),
    (Family("functions_first_byte_seconds", "histogram", "Time from a request's head to the begin of the "
        "function's answer."), _first_bytes),
    (Family("functions_errors", "counter", "Answers that the host gave for a function, and clients "
        "that left, by error code."), _errors),
    (Family("functions_limits_exceeded", "counter", "Requests that a limit ended or turned away, by the "
        "limit's key."), _limits),
    (Family("functions_retries", "counter", "Requests that were given to a second worker because the first "
        "went before it began."), _each(lambda deployment: deployment.series.retries)),
    (Family("functions_unrouted_requests", "counter", "Requests that reached no function, by class of "
        "status."), _unrouted),
    (Family("functions_requests_in_flight", "gauge", "Requests and WebSockets that the workers have now."),
        _each(lambda deployment: sum(pool.in_flight for pool in deployment.pools))),
    (Family("functions_requests_queued", "gauge", "Requests that wait for a worker."),
        _each(lambda deployment: sum(pool.queued for pool in deployment.pools))),
    (Family("functions_websockets", "counter", "WebSockets that were opened."),
        _each(lambda deployment: deployment.series.websockets)),
    (Family("functions_websockets_open", "gauge", "WebSockets that are open."),
        _each(lambda deployment: sum(pool.websockets for pool in deployment.pools))),
    (Family("functions_state", "gauge", "1 for the state that a function is in, 0 for the others."), _states),
    (Family("functions_generation_info", "gauge", "1, labelled with the version that serves."), _generations),
    (Family("functions_workers", "gauge", "Workers that take requests, and those that finish what they "
        "have and leave."), _workers),
    (Family("functions_boot_seconds", "summary", "Time that workers took from their start until they were "
        "ready."), _boots),
    (Family("functions_boot_failures", "counter", "Workers that did not become ready."),
        _each(lambda deployment: deployment.series.boot_failures)),
    (Family("functions_restarts", "counter", "Workers that ended although nobody had told them to."),
        _each(lambda deployment: deployment.series.restarts)),
    (Family("functions_stops", "counter", "Workers that were stopped, by the key of the limit that they were "
        "over."), _stops),
    (Family("functions_retired", "counter", "Workers that left because they were to be replaced or not "
        "needed any more."), _each(lambda deployment: deployment.series.retired)),
    (Family("functions_blocked", "counter", "Times that a worker's event loop was seen to stand still."),
        _each(lambda deployment: deployment.series.blocked)),
    (Family("functions_workers_memory_bytes", "gauge", "Memory that a function's workers have taken for "
        "themselves, as memory_mb counts it."),
        _each(lambda deployment: sum(worker.memory for worker in deployment.workers))),
    (Family("functions_workers_resident_bytes", "gauge", "Memory of a function's workers, with what they "
        "share."), _memory),
    (Family("functions_process_resident_bytes", "gauge", "Memory of the server's own processes, with what "
        "they share."), _processes),
    (Family("functions_gateway_tasks", "gauge", "Tasks of the gateway's event loop."),
        lambda view: [Sample((), len(asyncio.all_tasks()))]),
    (Family("functions_engine_up", "gauge", "1 while the engine runs and its models are loaded."),
        lambda view: [Sample((), int(view.engine_up))]),
    (Family("functions_start_time_seconds", "gauge", "When the gateway started, in Unix time."),
        lambda view: [Sample((), _STARTED)]),
    (Family("functions_build_info", "gauge", "1, labelled with the server's version."),
        lambda view: [Sample((("version", __version__),), 1)]),
)  # fmt: skip
"""Every metric, in the order of the page."""
