"""On PYTHONPATH, it lets no Python process of a run speak to another machine.

Jupyter's kernels speak over loopback, which stays open. What is refused is noted in the file that
DOLLKIT_OFFLINE names, so that a refusal that somebody swallows is seen all the same.
"""

import os
import pathlib
import socket
import sys

LOCAL = ("127.", "::1", "localhost", "0.0.0.0")
_connect, _connect_ex, _lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def _refuse(what):
    with pathlib.Path(os.environ["DOLLKIT_OFFLINE"]).open("a", encoding="utf-8") as log:
        log.write(f"{what} by {' '.join(sys.argv)[:200]}\n")
    raise OSError(f"the network is off, and {what} is asked for")


def _allowed(host):
    return host is None or str(host).startswith(LOCAL) or host == socket.gethostname()


def _checked(call):
    def connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _allowed(address[0]):
            _refuse(f"a connection to {address[0]}")
        return call(self, address)

    return connect


def _getaddrinfo(host, *more, **named):
    if not _allowed(host.decode() if isinstance(host, bytes) else host):
        _refuse(f"the address of {host}")
    return _lookup(host, *more, **named)


if os.environ.get("DOLLKIT_OFFLINE"):
    socket.socket.connect = _checked(_connect)
    socket.socket.connect_ex = _checked(_connect_ex)
    socket.getaddrinfo = _getaddrinfo
