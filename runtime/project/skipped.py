"""Names that never belong to a function: what tools and editors drop, and its tests."""

from __future__ import annotations

import fnmatch

_PATTERNS = (
    *(".*", "__pycache__", "venv", "node_modules", "*.pyc"),
    *("*~", "*.sw[opx]", "*.tmp", "*.orig", "#*", "___*", "4913"),  # what editors drop
    *("test_*.py", "*_test.py", "conftest.py"),
)


def is_skipped(name: str) -> bool:
    """Whether a file or folder of this name is left out."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _PATTERNS)
