"""What strace writes of a forbidden call is found, and nothing else."""

from __future__ import annotations

import pytest

from tests.hostile.trace import find_forbidden_calls

FORBIDDEN = [
    'openat(AT_FDCWD</tmp>, "link", O_RDONLY|O_CLOEXEC) = 3</tmp/hostile-a1/outside/secret.txt>',
    'openat(AT_FDCWD</>, "/x", O_RDONLY) = 3</tmp/hostile-a1/home/.cache/huggingface/token>',
    'execve("/bin/sh", ["sh", "-c", "true"], 0x7ff /* 9 vars */) = 0',
    'connect(3<TCP:[1]>, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("1.2.3.4")}, 16) = -1 EINPROGRESS',
]
ALLOWED = [
    'openat(AT_FDCWD</tmp>, "secret.txt", O_WRONLY|O_CREAT) = 3</tmp/hostile-a1/outside/secret.txt>',
    'openat(AT_FDCWD</tmp>, "link", O_RDONLY|O_NOFOLLOW) = -1 ELOOP (Too many levels of symbolic links)',
    'openat(AT_FDCWD</tmp>, "a.json", O_RDONLY) = 3</tmp/hostile-a1/theirs/exports/fake/a.json>',
    'execve("/env/bin/python3.11", ["python", "-P"], 0x7ff /* 9 vars */) = 0',
    'execve("/bin/sh", ["sh"], 0x7ff /* 9 vars */) = -1 ENOENT (No such file or directory)',
    'connect(3<TCP:[1]>, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = 0',
]


@pytest.mark.parametrize("line", FORBIDDEN)
def test_a_forbidden_call_is_found(line: str) -> None:
    """A secret that is read, another program, another host."""
    assert [*find_forbidden_calls([line])] == [line]


def test_allowed_calls_are_left_alone() -> None:
    """What the runner itself writes, what failed, and the test server."""
    assert [*find_forbidden_calls(ALLOWED)] == []
