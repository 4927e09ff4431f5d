"""One function through its generations."""

from __future__ import annotations

import asyncio

from runtime.errors import BootError
from runtime.gateway.departures import UNLIMITED_S
from runtime.gateway.generation import Generation
from runtime.gateway.metrics import Series
from runtime.gateway.pool import Pool, State
from runtime.gateway.services import Services
from runtime.gateway.worker import BootFailure, Worker


class Deployment:
    """What serves a function now, and what shall serve it next.

    A new generation takes over when it is ready, and the old one drains. One that does
    not boot leaves the old one serving.

    Attributes:
        slot: number of the function, for its unprivileged user.
        wanted: the newest generation; it may not be the one that serves.
        unreadable: why the files, as they are now, make no generation; empty: they do.
        series: the function's numbers.
    """

    def __init__(self, name: str, slot: int, services: Services) -> None:
        self.name, self.slot = name, slot
        self.wanted: Generation | None = None
        self.unreadable = ""
        self.series = Series()
        self._rejected = ""
        self._services = services
        self._pool: Pool | None = None
        self._rolling: asyncio.Task[None] | None = None
        self._closing: dict[asyncio.Task[None], Pool] = {}
        self.settled = asyncio.Event()
        self._begun = asyncio.Event()  # there is a pool, or there will be none

    @property
    def failure(self) -> str:
        """Why what is on disk does not serve; empty: it does."""
        return self.unreadable or self._rejected or (self._pool.last_error if self._pool else "")

    @property
    def trouble(self) -> str:
        """The same, or what is wrong with what serves; empty: nothing."""
        return self.failure or (self._pool.trouble if self._pool else "")

    @property
    def state(self) -> State:
        """Of the pool that takes requests; before the first, whether there will be one."""
        if self._pool is not None:
            return self._pool.state
        return "failed" if self._begun.is_set() else "booting"

    @property
    def pool(self) -> Pool | None:
        """The pool that takes requests; None before the first."""
        return self._pool

    @property
    def pools(self) -> list[Pool]:
        """Every pool that may have workers: the one that takes requests, and those that drain."""
        return [pool for pool in (self._pool, *self._closing.values()) if pool is not None]

    @property
    def workers(self) -> list[Worker]:
        """All its workers: those that take requests, and those that finish what they have."""
        return [worker for pool in self.pools for worker in pool.everybody]

    async def first_pool(self) -> Pool:
        """Wait for the first pool: the server listens before it has read its functions.

        Raises:
            BootError: there will be none.
        """
        await self._begun.wait()
        if self._pool is None:
            raise BootError
        return self._pool

    def roll(self, generation: Generation) -> None:
        """Make `generation` the one that serves, in the background."""
        self.wanted = generation
        self.settled.clear()
        if self._rolling is not None:
            self._rolling.cancel()  # a newer save overtakes one that is still booting
        if self._serves(generation):  # a save was taken back: what goes on undisturbed is the point of it
            self._rejected = ""
            self.settle()
            return
        self._rolling = asyncio.get_running_loop().create_task(self._roll(generation))

    def settle(self) -> None:
        """Nothing (more) is on its way: who waits need not."""
        self._begun.set()
        self.settled.set()

    def _serves(self, generation: Generation) -> bool:
        pool = self._pool
        return (
            pool is not None
            and pool.proven
            and pool.state not in ("failed", "draining")
            and generation.same_as(pool.generation)
        )

    async def _roll(self, generation: Generation) -> None:
        old = self._pool
        first = old is None or not old.proven or old.state == "failed"
        self._rejected = ""
        pool = Pool(generation, self.slot, self._services, self.series)
        pool.on_failure = lambda failure: self._on_failure(pool, failure)
        if first:
            self._pool = pool  # nothing serves: requests had better wait for the new one
            self._begun.set()
            self._retire(old)
        try:
            await pool.start(needed=not first)
        except BootFailure:
            if not first:
                self._retire(pool)
        except asyncio.CancelledError:
            if self._pool is not pool:
                self._retire(pool)
            raise
        else:
            if not first:
                self._pool = pool
                self._retire(old)
            self._announce(pool, first)
        self.settle()

    def _announce(self, pool: Pool, first: bool) -> None:
        if pool.workers and self._services.chatty.is_set():
            what = "serving" if first else "reloaded"
            text = f"{what}, ready in {pool.workers[0].boot_ms:.0f} ms"
            self._services.logbook.tell(text, function=self.name)

    def _on_failure(self, pool: Pool, failure: BootFailure) -> None:
        overtaken = self._pool is not pool and pool.generation is not self.wanted
        if overtaken or pool.state == "draining":
            return
        if self._pool is not pool:
            self._rejected = str(failure)
        kept = "; the previous version keeps serving" if self._pool is not pool else ""
        text = f"{failure.detail or failure}\n".rstrip() + f"\n→ {self.name} did not start{kept}"
        self._services.logbook.tell(text, level="error", function=self.name)

    def _retire(self, pool: Pool | None) -> None:
        if pool is None or pool.state == "draining":
            return
        seconds = pool.generation.function.limits.timeout_s or UNLIMITED_S
        task = asyncio.get_running_loop().create_task(pool.close(seconds, "reload"))
        self._closing[task] = pool
        task.add_done_callback(self._closing.pop)

    def look(self) -> None:
        """Called every second: see to workers that are old, large or idle."""
        if self._pool is not None:
            self._pool.look()

    def meet_engine(self) -> None:
        """A new engine is up: lead the workers to it."""
        if self._pool is not None:
            self._pool.meet_engine()

    def forewarn(self, reason: str) -> None:
        """Close the WebSockets, and tell the workers that they will have to end; requests go on."""
        if self._pool is not None:
            self._pool.dismiss(reason)
            self._pool.forewarn(reason)

    async def close(self, seconds: float, reason: str) -> None:
        """End every worker of every generation."""
        if self._rolling is not None:
            self._rolling.cancel()
            await asyncio.wait({self._rolling})  # it has the pool that was to come closed
        self.settle()
        if self._pool is not None and self._pool.state != "draining":
            await self._pool.close(seconds, reason)
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=seconds)
