"""Every function that is served, and how a changed project becomes changed deployments."""

from __future__ import annotations

import asyncio

import msgspec

from runtime.errors import UsageError
from runtime.gateway.deployment import Deployment
from runtime.gateway.generation import Generation
from runtime.gateway.services import Services
from runtime.project.environment import environment_of
from runtime.project.settings import Function, Project
from runtime.project.snapshot import archive, take


class Registry:
    """The functions by name. A name that is not in it is a 404, whatever it looks like.

    Attributes:
        functions: the settings of every enabled function.
    """

    def __init__(self, services: Services, url: str) -> None:
        self.functions: dict[str, Function] = {}
        self._deployments: dict[str, Deployment] = {}
        self._services, self._url = services, url
        self._slots: dict[str, int] = {}
        self._revisions: dict[str, int] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def deployments(self) -> list[Deployment]:
        return list(self._deployments.values())

    def get(self, name: str) -> tuple[Function, Deployment] | None:
        """A served function, or None."""
        function = self.functions.get(name)
        return None if function is None else (function, self._deployments[name])

    def expect(self, project: Project) -> None:
        """Know the functions of a project: requests to them wait until `apply` has read them."""
        for function in _enabled(project).values():
            self._known(function)

    async def apply(self, project: Project) -> list[str]:
        """Make the deployments follow the project; the names of those that changed."""
        settings = project.settings
        self._services.budget.configure(settings.max_workers_total, settings.memory_mb_total)
        enabled = _enabled(project)
        changed = []
        for name, function in sorted(enabled.items()):
            try:
                generation = await asyncio.to_thread(self._generation, project, function)
            except (UsageError, OSError) as error:
                self._services.logbook.tell(str(error), level="error", function=name)
                self._refuse(function, str(error))
                continue
            if self._update(function, generation):
                changed.append(name)
        for name in set(self._deployments) - set(enabled):
            self._remove(name, settings.shutdown_s)
            changed.append(name)
        return changed

    def _generation(self, project: Project, function: Function) -> Generation:
        snapshot = take(function)
        oneshot = project.settings.policy == "oneshot"
        return Generation(
            name=snapshot.digest,
            function=_alone(function) if oneshot else function,
            archive=archive(snapshot),
            directory=snapshot.directory,
            entrypoint=snapshot.entrypoint,
            environ=environment_of(project, function, url=self._url),
            oneshot=oneshot,
        )

    def _update(self, function: Function, generation: Generation) -> bool:
        deployment = self._known(function)
        deployment.unreadable = ""
        if deployment.wanted is not None and generation.same_as(deployment.wanted):
            return False
        deployment.roll(self._numbered(generation, deployment.wanted))
        return True

    def _refuse(self, function: Function, reason: str) -> None:
        """Its files make no generation: what serves goes on, if anything does."""
        deployment = self._known(function)
        deployment.unreadable = reason
        deployment.settle()

    def _known(self, function: Function) -> Deployment:
        """The deployment of a function, which may have no generation yet."""
        self.functions[function.name] = function
        if function.name not in self._deployments:
            slot = self._slots.setdefault(function.name, len(self._slots))
            self._deployments[function.name] = Deployment(function.name, slot, self._services)
        return self._deployments[function.name]

    def _numbered(self, generation: Generation, before: Generation | None) -> Generation:
        """Two generations never share a name, also when only the environment differs."""
        if before is None or before.name.split("+")[0] != generation.name:
            return generation
        name = generation.function.name
        self._revisions[name] = self._revisions.get(name, 0) + 1
        return msgspec.structs.replace(generation, name=f"{generation.name}+{self._revisions[name]}")

    def _remove(self, name: str, seconds: float) -> None:
        self.functions.pop(name, None)
        deployment = self._deployments.pop(name)
        task = asyncio.get_running_loop().create_task(deployment.close(seconds, "removed"))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def look(self) -> None:
        """Called every second: see to workers that are old, large or idle, and to the totals."""
        for deployment in self.deployments:
            deployment.look()
        self._services.budget.look()

    def meet_engine(self) -> None:
        """A new engine is up: lead every worker to it."""
        for deployment in self.deployments:
            deployment.meet_engine()

    async def settled(self) -> None:
        """Wait until every deployment has booted or failed."""
        await asyncio.gather(*(deployment.settled.wait() for deployment in self.deployments))

    def forewarn(self, reason: str) -> None:
        """Close every WebSocket, and tell every function that it will have to end; requests go on."""
        for deployment in self.deployments:
            deployment.forewarn(reason)

    async def close(self, seconds: float, reason: str) -> None:
        """End every worker."""
        await asyncio.gather(*(deployment.close(seconds, reason) for deployment in self.deployments))


def _alone(function: Function) -> Function:
    """The function with one request at a time in each worker."""
    return msgspec.structs.replace(function, limits=msgspec.structs.replace(function.limits, concurrency=1))


def _enabled(project: Project) -> dict[str, Function]:
    if not project.settings.enabled:
        return {}
    return {name: function for name, function in project.functions.items() if function.enabled}
