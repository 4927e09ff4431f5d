"""What this process knows about local models."""

from __future__ import annotations

import os
from collections.abc import Iterable

from runtime.ai.engine import EngineClient
from runtime.ai.llm.server import Server
from runtime.frames import ModelCard


class Host:
    """The models of this machine and the way to them.

    Attributes:
        models: by name; what the boot message said, replaced by `learn`.
        folder: relative model paths start here; empty: the working directory.
        engine: not attached until the worker has a connection for it.
    """

    def __init__(self, models: Iterable[ModelCard] = (), folder: str = "") -> None:
        self.models: dict[str, ModelCard] = {}
        self.folder = folder
        self._beside = self._source = self._copy = ""
        self.engine = EngineClient()
        self.learn(models)

    def learn(self, models: Iterable[ModelCard]) -> None:
        """These are the models from now on."""
        self.models = {card.name: card for card in models}

    def find(self, model: str) -> str | None:
        """What the engine calls this model: a name, or the absolute path of a folder; None: not local."""
        if model.startswith(("/", "./", "../")):
            return os.path.normpath(os.path.join(self.folder or os.getcwd(), model))
        return model if model in self.models else None

    def settle(self, beside: str, source: str, copy: str) -> None:
        """Where a function's files are.

        Args:
            beside: folder of its entry file, in the project.
            source: folder that its files were taken from.
            copy: where this process has them.
        """
        self._beside, self._source, self._copy = beside, source, copy

    def graph(self, path: str) -> list[str]:
        """Absolute paths that a graph's file may have, the best first.

        A relative one starts beside the function's entry file, or at the project. The engine
        reads the project's file, also when the function names its own copy (`__file__`).
        """
        if not os.path.isabs(path):
            bases = (self._beside, self.folder or os.getcwd())
            return list(dict.fromkeys(os.path.normpath(os.path.join(base, path)) for base in bases if base))
        own = os.path.relpath(path, self._copy) if self._copy else os.pardir
        copied = own.split(os.sep)[0] != os.pardir
        return [os.path.normpath(os.path.join(self._source, own) if copied else path)]

    def server(self, model: str, host: str | None, key: str | None, mode: str | None) -> Server | None:
        """The LLM server of a session for this model; as `Server.find` has it."""
        return Server.find(os.environ, host, key, mode)


_host: Host | None = None


def install(models: Iterable[ModelCard], folder: str = "") -> Host:
    """Say what is here, once, before any function's code runs."""
    return use(Host(models, folder))


def use(host: Host) -> Host:
    """Let sessions ask this one from now on."""
    global _host
    _host = host
    return host


def current() -> Host:
    """What was installed; without that (a script, a test) a host with no models."""
    return _host or install(())
