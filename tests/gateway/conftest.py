"""Nothing that runs on the gateway's event loop may block it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from tests.gateway.house import House


@pytest.fixture(autouse=True)
def _blocking_fails() -> Iterator[BlockBuster]:
    """A call of ours that blocks while an event loop runs raises."""
    with blockbuster_ctx("runtime") as blockbuster:
        for name in ("os.write", "os.read"):
            # A file in memory has no disk behind it.
            blockbuster.functions[name].can_block_in("runtime/sharedfile.py", {"shared_file"})
        # Neither has what the kernel tells of a process.
        blockbuster.functions["os.read"].can_block_in("runtime/proc.py", {"read_or_raise"})
        yield blockbuster


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    await house.close()
