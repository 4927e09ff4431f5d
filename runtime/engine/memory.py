"""How the C library hands out memory in this process."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # <malloc.h>, glibc
_LARGE = 1 << 20


def return_large_blocks() -> None:
    """Have every block of a megabyte or more given back to the kernel when it is freed.

    glibc would otherwise raise that limit as it goes, keep the blocks in a heap per thread,
    and let the small results between them pin the heaps: an engine under random lengths
    settles at 180 MB with the fixed limit, at 400 MB without it. Other C libraries have no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


def return_free_memory() -> None:
    """Give back to the kernel what has been freed, where the C library knows how."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
