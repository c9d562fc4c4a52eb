"""How many connections the process has file descriptors for, so that other things never lack one.

A request takes two: its client's connection and its upstream's. Before they are used up clients are told to go, so
that the ledger, a reload and its child process, name lookups and the log find one whenever they need it. Above all this
stands what libuv does where none is left: it accepts and closes what waits, so that nothing spins.
"""

from __future__ import annotations

import errno
import resource

#: Not for connections: files and pipes of the ledger, a reload, lookups, exports.
RESERVED = 64
#: Of the rest, what is for connections to upstreams.
_UPSTREAM = 1 / 3
#: Errors by which the system says that it is we who lack something.
OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def claim() -> None:
    """Raise the limit on open files as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def clients() -> int:
    """How many connections of clients there may be, with as many open files as there may be; 1 at least."""
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if open_files == resource.RLIM_INFINITY:
        return 1 << 30
    return max(1, int((open_files - RESERVED) * (1 - _UPSTREAM)))
