"""Which requests a worker has begun."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from runtime.marks import Marks, shared_file


def test_a_mark_is_seen_by_whoever_shares_the_file_and_by_no_other_slot() -> None:
    fd = shared_file(bytes(4096))
    ours, theirs = Marks(fd, 4096), Marks(fd, 4096)
    os.close(fd)
    theirs.set(7)
    assert [slot for slot in range(4096) if ours.is_set(slot)] == [7]
    ours.clear(7)
    assert not theirs.is_set(7)
    ours.close()
    theirs.close()


def test_a_mark_outlives_whoever_made_it() -> None:
    fd = shared_file(bytes(1))
    marks = Marks(fd, 1)
    code = f"import os\nfrom runtime.marks import Marks\nMarks({fd}, 1).set(0)\nos.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], pass_fds=[fd]).returncode == -9
    assert marks.is_set(0)
    marks.close()
    os.close(fd)


def test_a_shared_file_holds_what_it_was_given_and_is_not_inherited() -> None:
    data = os.urandom(3_000_000)
    fd = shared_file(data)
    assert os.pread(fd, len(data) + 1, 0) == data
    assert not os.get_inheritable(fd)
    os.close(fd)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="nothing can be sealed here")
@pytest.mark.parametrize("constant", [False, True])
def test_nobody_can_change_the_size_of_a_shared_file(constant: bool) -> None:
    """Who has it mapped would be killed when he touches it."""
    fd = shared_file(b"abc", constant=constant)
    for size in (0, 2, 4096):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"d", 3)
    os.close(fd)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="nothing can be sealed here")
def test_nobody_can_change_a_constant_file() -> None:
    fd = shared_file(b"abc", constant=True)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        Marks(fd, 3)
    assert os.pread(fd, 10, 0) == b"abc"
    os.close(fd)
