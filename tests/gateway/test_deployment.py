"""One function through its generations."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from runtime.errors import BootError, ShuttingDown
from runtime.gateway import crashes as crashes_module
from runtime.gateway.deployment import Deployment
from runtime.gateway.dispatch import lease
from runtime.gateway.pool import Pool
from runtime.gateway.worker import BootFailure
from tests.gateway.house import House, PlayedWorker, generation, turns, until

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crashes_module, "_FIRST_WAIT_S", 0.001)


def deployment(house: House) -> Deployment:
    return Deployment("hello", 0, house.services)


async def serving(house: House, **limits: Any) -> Deployment:
    deployed = deployment(house)
    deployed.roll(generation("g1", **limits))
    await deployed.settled.wait()
    return deployed


def names(house: House) -> list[str]:
    """The generations of the workers that live."""
    return [worker.boot.generation for worker in house.living if worker.boot is not None]


def serves(deployed: Deployment) -> str:
    return deployed.pool.generation.name if deployed.pool is not None else ""


async def test_a_deployment_has_nothing_to_serve_before_its_first_generation(house: House) -> None:
    deployed = deployment(house)
    assert (deployed.pool, deployed.state, deployed.failure) == (None, "booting", "")
    waiting = asyncio.create_task(lease(deployed))
    await turns()
    assert not waiting.done()
    deployed.roll(generation())
    pool, _ = await waiting
    assert pool is deployed.pool
    assert deployed.state == "ready"
    await deployed.close(0, "test")


async def test_those_who_wait_for_what_will_never_come_are_told(house: House) -> None:
    deployed = deployment(house)
    waiting = asyncio.create_task(lease(deployed))
    await turns()
    deployed.unreadable = "the files are too many"
    deployed.settle()
    with pytest.raises(BootError):
        await waiting
    assert (deployed.state, deployed.failure) == ("failed", "the files are too many")


async def test_a_new_generation_takes_over_only_when_it_is_ready(house: House) -> None:
    deployed = await serving(house)
    house.on_boot = lambda worker: None
    deployed.roll(generation("g2"))
    await until(lambda: len(house.workers) == 2 and house.workers[1].boot)
    assert serves(deployed) == "g1"
    assert not deployed.settled.is_set()
    house.workers[1].ready()
    await deployed.settled.wait()
    assert serves(deployed) == "g2"
    await until(lambda: names(house) == ["g2"])
    await deployed.close(0, "test")


async def test_the_old_generation_finishes_what_it_has(house: House) -> None:
    deployed = await serving(house, timeout_s=30)
    house.on_drain = lambda worker: None
    old, worker = await lease(deployed)
    deployed.roll(generation("g2"))
    await deployed.settled.wait()
    await until(lambda: house.workers[0].drains)
    assert (house.workers[0].drains[0].seconds, house.workers[0].drains[0].reason) == (30, "reload")
    assert sorted(names(house)) == ["g1", "g2"]
    old.release(worker, None)
    house.workers[0].die(0)
    await until(lambda: names(house) == ["g2"])
    assert house.kills == []
    house.on_drain = lambda worker: worker.die(0)
    await deployed.close(0, "test")


async def test_where_there_is_no_time_limit_the_old_generation_has_an_hour(house: House) -> None:
    deployed = await serving(house, timeout_s=0)
    deployed.roll(generation("g2"))
    await until(lambda: house.workers[0].drains)
    assert house.workers[0].drains[0].seconds == 3600
    await deployed.settled.wait()
    await deployed.close(0, "test")


async def test_a_generation_that_does_not_start_leaves_the_old_one_serving(house: House) -> None:
    deployed = await serving(house)
    house.on_boot = lambda worker: worker.fail("SyntaxError: invalid syntax", "Traceback:\n  line 1\n")
    deployed.roll(generation("g2"))
    await deployed.settled.wait()
    await turns()
    assert serves(deployed) == "g1"
    assert (deployed.state, deployed.failure) == ("ready", "SyntaxError: invalid syntax")
    assert names(house) == ["g1"]
    assert (
        "Traceback:\n      line 1\n    → hello did not start; the previous version keeps serving" in house.log
    )
    await deployed.close(0, "test")


async def test_the_next_good_generation_clears_the_failure(house: House) -> None:
    deployed = await serving(house)
    house.on_boot = lambda worker: worker.fail("broken")
    deployed.roll(generation("g2"))
    await deployed.settled.wait()
    house.on_boot = lambda worker: worker.ready()
    deployed.roll(generation("g3"))
    await deployed.settled.wait()
    assert (serves(deployed), deployed.failure) == ("g3", "")
    await until(lambda: names(house) == ["g3"])
    await deployed.close(0, "test")


async def test_a_save_that_is_taken_back_leaves_what_serves_alone(house: House) -> None:
    deployed = await serving(house)
    before = deployed.pool
    house.on_boot = lambda worker: worker.fail("SyntaxError")
    deployed.roll(generation("g2"))
    await deployed.settled.wait()
    assert deployed.failure == "SyntaxError"
    deployed.roll(generation("g1"))
    await deployed.settled.wait()
    assert (deployed.failure, deployed.pool, len(house.workers)) == ("", before, 2)
    await deployed.close(0, "test")


async def test_a_first_generation_that_does_not_start_is_replaced_at_once(house: House) -> None:
    deployed = deployment(house)
    house.on_boot = lambda worker: worker.fail("broken")
    deployed.roll(generation("g1"))
    await deployed.settled.wait()
    assert (deployed.state, deployed.failure) == ("failed", "broken")
    assert "previous version" not in house.log
    house.on_boot = lambda worker: None
    deployed.roll(generation("g2"))
    await until(lambda: len(house.workers) == 2 and house.workers[1].boot)
    waiting = asyncio.create_task(lease(deployed))
    await turns()
    assert not waiting.done()  # it waits for the new one instead of hearing of the old one's failure
    house.workers[1].ready()
    assert (await waiting)[0].generation.name == "g2"
    await deployed.close(0, "test")


async def test_a_failure_that_passes_is_no_failure_any_more(house: House) -> None:
    deployed = deployment(house)
    house.on_boot = lambda worker: worker.fail("no database")
    deployed.roll(generation())
    await deployed.settled.wait()
    house.on_boot = lambda worker: worker.ready()
    await asyncio.sleep(0.01)
    await lease(deployed)
    assert (deployed.state, deployed.failure) == ("ready", "")
    await deployed.close(0, "test")


async def test_a_newer_save_overtakes_one_that_is_still_booting(house: House) -> None:
    deployed = await serving(house)
    house.on_boot = lambda worker: None
    deployed.roll(generation("g2"))
    await until(lambda: len(house.workers) == 2 and house.workers[1].boot)
    house.on_boot = lambda worker: worker.ready()
    deployed.roll(generation("g3"))
    await deployed.settled.wait()
    assert serves(deployed) == "g3"
    await until(lambda: names(house) == ["g3"])
    assert house.kills == [house.workers[1].pid]
    await deployed.close(0, "test")


async def test_a_newer_save_overtakes_the_very_first(house: House) -> None:
    deployed = deployment(house)
    house.on_boot = lambda worker: None
    deployed.roll(generation("g1"))
    await until(lambda: house.workers and house.workers[0].boot)
    waiting = asyncio.create_task(lease(deployed))
    await turns()
    house.on_boot = lambda worker: worker.ready()
    deployed.roll(generation("g2"))
    pool, _ = await waiting
    assert pool.generation.name == "g2"
    await until(lambda: names(house) == ["g2"])
    await deployed.close(0, "test")


async def test_requests_that_wait_are_moved_to_the_new_generation(house: House) -> None:
    deployed = await serving(house, concurrency=1)
    held, worker = await lease(deployed)
    waiting = asyncio.create_task(lease(deployed))
    await turns()
    assert held.queued == 1
    house.on_drain = lambda worker: None
    deployed.roll(generation("g2"))
    pool, _ = await waiting
    assert pool.generation.name == "g2"
    held.release(worker, None)
    house.workers[0].die(0)
    house.on_drain = lambda worker: worker.die(0)
    await deployed.close(0, "test")


async def test_a_version_overtaken_while_it_fails_says_nothing(house: House) -> None:
    deployed = await serving(house)
    house.on_boot = lambda worker: None
    deployed.roll(generation("g2"))
    await until(lambda: len(house.workers) == 2 and house.workers[1].boot)
    doomed: PlayedWorker = house.workers[1]
    house.on_boot = lambda worker: worker.ready()
    deployed.roll(generation("g3"))
    doomed.fail("too late")
    await deployed.settled.wait()
    await turns()
    assert "too late" not in house.log
    assert deployed.failure == ""
    await deployed.close(0, "test")


async def test_a_version_that_fails_in_the_moment_in_which_it_is_overtaken_says_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer one has taken its place, and its end has been asked for, but not begun."""
    house.on_boot = lambda worker: None
    deployed = deployment(house)
    deployed.roll(generation("g1"))
    await until(lambda: names(house) == ["g1"])
    overtaken = deployed.pool
    assert overtaken is not None
    monkeypatch.setattr(
        deployed, "_retire", lambda pool: pool and pool.on_failure(BootFailure("too late", ""))
    )
    house.on_boot = lambda worker: worker.ready()
    deployed.roll(generation("g2"))
    await deployed.settled.wait()
    assert (serves(deployed), deployed.failure, "too late" in house.log) == ("g2", "", False)
    await overtaken.close(0, "test")
    await deployed.close(0, "test")


async def test_changes_are_told_once_the_banner_is_out(house: House) -> None:
    deployed = await serving(house)
    assert house.told == []
    house.services.chatty.set()
    deployed.roll(generation("g2"))
    await deployed.settled.wait()
    assert "hello reloaded, ready in" in house.log
    await deployed.close(0, "test")


async def test_closing_ends_every_generation(house: House) -> None:
    deployed = await serving(house)
    house.on_drain = lambda worker: None
    deployed.roll(generation("g2"))
    await deployed.settled.wait()
    house.on_boot = lambda worker: None
    deployed.roll(generation("g3"))
    await until(lambda: len(house.workers) == 3 and house.workers[2].boot)
    house.on_drain = lambda worker: worker.die(0)
    house.workers[0].die(0)
    await deployed.close(1, "termination")
    await until(lambda: not house.living)
    with pytest.raises(ShuttingDown):
        await lease(deployed)


async def test_closing_ends_a_generation_that_is_booting_too(house: House) -> None:
    deployed = await serving(house)
    house.on_boot = lambda worker: None
    deployed.roll(generation("g2"))
    await until(lambda: len(house.workers) == 2 and house.workers[1].boot)
    house.workers[0].die(0)
    await until(lambda: deployed.workers == [])
    await deployed.close(1, "termination")
    assert deployed.workers == []
    assert house.kills == [house.workers[1].pid]


async def test_closing_what_was_never_rolled_is_fine(house: House) -> None:
    deployed = deployment(house)
    await deployed.close(1, "termination")
    deployed.meet_engine()
    with pytest.raises(BootError):
        await lease(deployed)


async def test_only_what_serves_is_led_to_a_new_engine(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = await serving(house)
    met: list[Pool] = []
    monkeypatch.setattr(Pool, "meet_engine", lambda pool: met.append(pool))
    deployed.meet_engine()
    assert met == [deployed.pool]
    await deployed.close(0, "test")
