"""Work on after the answer."""

# Begin some work, with the keys of `eval "$(functions keys)"`; the answer comes at once and has an id:
#   curl -X POST http://localhost:54321/functions/v1/background -H "Authorization: Bearer $ANON_KEY"
# See how far it is, with that id as $ID:
#   curl "http://localhost:54321/functions/v1/background/$ID" -H "Authorization: Bearer $ANON_KEY"

import asyncio
import uuid
from typing import Any

from runtime import HTTPException, JSONResponse, Request, wait_until

STEPS = 4
KEPT = 1000

jobs: dict[str, dict[str, Any]] = {}  # in this process alone; a database would outlive it


async def handler(request: Request) -> JSONResponse:
    _, *rest = request.url.path.strip("/").split("/")
    if request.method == "POST" and not rest:
        job = begin()
        wait_until(work(job))  # reloads and shutdowns wait for it, too
        return JSONResponse(job, 202)
    if request.method == "GET" and len(rest) == 1 and rest[0] in jobs:
        return JSONResponse(jobs[rest[0]])
    raise HTTPException(404, "POST begins some work, GET /background/ID shows how far it is")


def begin() -> dict[str, Any]:
    if len(jobs) >= KEPT:
        del jobs[next(iter(jobs))]  # the oldest
    job = {"id": str(uuid.uuid4()), "status": "running", "progress": 0.0}
    jobs[str(job["id"])] = job
    return job


async def work(job: dict[str, Any]) -> None:
    for step in range(1, STEPS + 1):
        await asyncio.sleep(0.5)  # something that takes its time
        job["progress"] = step / STEPS
    job["status"] = "done"
