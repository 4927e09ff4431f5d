"""Memory that is handed from process to process."""

from __future__ import annotations

import mmap
import os

import pytest

from runtime.sharedfile import shared_file

needs_seals = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="nothing can be sealed here")


def test_a_shared_file_holds_what_it_was_given_and_is_not_inherited() -> None:
    data = os.urandom(3_000_000)
    fd = shared_file(data)
    assert os.pread(fd, len(data) + 1, 0) == data
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_zeros_behind_its_content_take_no_memory() -> None:
    fd = shared_file(b"abc", size=1 << 30)
    assert os.fstat(fd).st_size == 1 << 30
    assert os.fstat(fd).st_blocks * 512 < 1 << 20
    assert os.pread(fd, 5, 0) == b"abc\0\0"
    os.close(fd)


def test_what_one_writes_all_others_read() -> None:
    fd = shared_file(size=4096)
    ours, theirs = mmap.mmap(fd, 4096), mmap.mmap(fd, 4096)
    os.close(fd)
    theirs[7] = 1
    assert ours[7] == 1
    ours.close()
    theirs.close()


@needs_seals
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


@needs_seals
def test_nobody_can_change_a_constant_file() -> None:
    fd = shared_file(b"abc", constant=True)
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 3)
    assert os.pread(fd, 10, 0) == b"abc"
    os.close(fd)
