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
    if plan.users >= 0:
        os.set_inheritable(plan.users, False)  # ours and the keeper's alone: they end everybody else first
    return keep(
        lambda temp, keeper: Supervisor(plan, temp, keeper).run(),
        for_others=plan.uid_base > 0,
        held=plan.users,
    )


sys.exit(main())
