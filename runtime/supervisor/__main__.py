"""`python -m runtime.supervisor FD`: FD holds the plan."""

from __future__ import annotations

import os
import sys

import msgspec

from runtime.supervisor.keeper import keep
from runtime.supervisor.plan import Plan
from runtime.supervisor.supervisor import Supervisor


def main() -> int:
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        plan = msgspec.json.decode(file.read(), type=Plan)
    return keep(lambda temp, keeper: Supervisor(plan, temp, keeper).run(), for_others=plan.uid_base > 0)


sys.exit(main())
