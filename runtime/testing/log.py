"""The server's log, where a test looks for it."""

from __future__ import annotations

import logging

from runtime.gateway.logbook import Logbook


class KeptLog(Logbook):
    """Keeps the server's log, and shows it to `logging`, where test runners look."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__("plain", self.lines.append)
        self._logger = logging.getLogger("runtime.testing")

    def tell(
        self, message: str, *, level: str = "info", function: str = "", request_id: str = "", worker: int = 0
    ) -> None:
        """An event, or what the worker logged."""
        super().tell(message, level=level, function=function, request_id=request_id, worker=worker)
        self._logger.log(logging.getLevelName(level.upper()), "%s", message)
