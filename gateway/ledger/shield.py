"""Surviving a store into a mapped file whose page cannot be had: the file was cut, or its file system has shut down.

The kernel answers such a store with SIGBUS, which ends a process with every stream it has. Here the page is replaced by
memory that belongs to nothing, so that the store can end, and it is said that it was in vain. What follows from that
is the journal's business. Where this is not known to work (other systems than 64-bit Linux) nothing is done.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
import sys
from typing import Any

_SA_SIGINFO = 4
_ADDRESS_AT = 16  # of si_addr in siginfo_t, on 64-bit Linux
_PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE
_FIXED = 0x10 | mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Action(ctypes.Structure):
    """`struct sigaction`, which glibc and musl lay out alike."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_char * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class Shield:
    """Watches one map at a time, whose thread is the one that stores. `struck` once a store there was in vain."""

    def __init__(self) -> None:
        self.struck = False
        self._begin = self._end = 0
        self._before: _Action | None = None
        if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
            return
        # The store happens with the interpreter held, so that the call comes back into it as from any other function.
        self._libc = libc = ctypes.PyDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        self._handler = _Handler(self._on_fault)  # must live for as long as it may be called
        action, before = _Action(), _Action()
        action.handler = ctypes.cast(self._handler, ctypes.c_void_p)
        action.flags = _SA_SIGINFO
        if not libc.sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(before)):
            self._before = before

    def watch(self, mapped: mmap.mmap) -> None:
        """Watch this map from here on, and no other."""
        self.struck = False
        first: Any = ctypes.c_char.from_buffer(mapped)
        self._begin = ctypes.addressof(first)
        self._end = self._begin + len(mapped)

    def _on_fault(self, _: int, info: int, __: int) -> None:
        address = ctypes.c_void_p.from_address(info + _ADDRESS_AT).value or 0
        if self._begin <= address < self._end:
            page = address & ~(mmap.PAGESIZE - 1)
            if self._libc.mmap(page, self._end - page, _PROTECTION, _FIXED, -1, 0) == page:
                self.struck = True
                return
        self.close()  # somebody else's: it comes again at once, and ends as it would have without us

    def close(self) -> None:
        """Leave the signal to what it did before."""
        if self._before is not None:
            self._libc.sigaction(signal.SIGBUS, ctypes.byref(self._before), None)
            self._before = None
