"""What every worker needs of the gateway."""

from __future__ import annotations

import asyncio

import msgspec

from runtime.gateway.budget import Budget
from runtime.gateway.engine import Engine
from runtime.gateway.forker import Forker
from runtime.gateway.logbook import Logbook
from runtime.gateway.watch import Watch


class Services(msgspec.Struct, frozen=True):
    """The gateway's parts that workers and their pools use.

    Attributes:
        root: the project's folder.
        temp: the server's temp folder; each worker has a folder inside.
        watch: looks at workers that have something to do.
        budget: what the workers of all functions may take together.
        chatty: set once the banner has named what serves, so that from then on changes are told.
    """

    forker: Forker
    engine: Engine
    logbook: Logbook
    root: str
    temp: str
    watch: Watch = msgspec.field(default_factory=Watch)
    budget: Budget = msgspec.field(default_factory=Budget)
    chatty: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
