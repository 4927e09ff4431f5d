"""Names that never belong to a function: what tools and editors drop, and its tests."""

from __future__ import annotations

import fnmatch
import re

_PATTERNS = (
    *(".*", "__pycache__", "venv", "node_modules", "*.pyc"),
    *("*~", "*.sw[opx]", "*.tmp", "*.orig", "#*", "___*", "4913"),  # what editors drop
    *("test_*.py", "*_test.py", "conftest.py"),
)
_skipped = re.compile("|".join(map(fnmatch.translate, _PATTERNS))).match


def is_skipped(name: str) -> bool:
    """Whether a file or folder of this name is left out."""
    return _skipped(name) is not None
