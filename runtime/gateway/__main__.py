"""`python -m runtime.gateway --fd FD`: started by the supervisor."""

from __future__ import annotations

import sys

from runtime.gateway.main import main

sys.exit(main(int(sys.argv[-1])))
