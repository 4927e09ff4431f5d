"""What must outlive a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def sync(*paths: Path) -> None:
    """Have files on disk before their name is, and names in time: a power cut leaves all or nothing."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
