"""TLS in front of servers whose builds have none: certificates of an authority of one's own, and what ends TLS."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import NamedTuple

#: PostgreSQL's way into TLS: asked for before anything else, and agreed to with one letter.
SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class Certificate(NamedTuple):
    """Files of a server's certificate, its key, and the authority that vouches for it."""

    chain: Path
    key: Path
    authority: Path


def certificate(where: Path, name: str = "IP:127.0.0.1", *, of: Certificate | None = None) -> Certificate:
    """For an address or name, such as `DNS:db`, by the authority of another one, or by one that nobody else has."""
    where.mkdir(exist_ok=True)
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    authority = where / "ca.crt" if of is None else of.authority
    by = ("-CA", str(authority), "-CAkey", str(authority.with_suffix(".key")))
    for command in (
        ("-x509", *ec, "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt"),
        ("-x509", *ec, "-subj", "/CN=server", "-addext", f"subjectAltName={name}", "-addext",
         "basicConstraints=critical,CA:FALSE", *by, "-keyout", "server.key", "-out", "server.crt"),
    )[of is not None :]:  # fmt: skip
        subprocess.run(["openssl", "req", *command], cwd=where, check=True, capture_output=True)
    return Certificate(where / "server.crt", where / "server.key", authority)


class Front:
    """Ends TLS before a server on this machine. `asked`: PostgreSQL's clients ask for it first."""

    def __init__(self, to: int, shown: Certificate, *, asked: bool = False) -> None:
        self.to, self.asked = to, asked
        self.handshakes = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.show(shown)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def show(self, shown: Certificate) -> None:
        """This one from now on."""
        self._context.load_cert_chain(shown.chain, shown.key)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(client)
            client.settimeout(30)
            if self.asked:
                if client.recv(8) != SSL_REQUEST:
                    return
                client.sendall(b"S")
            secured = stack.enter_context(self._context.wrap_socket(client, server_side=True))
            self.handshakes += 1
            server = stack.enter_context(socket.create_connection(("127.0.0.1", self.to), timeout=30))
            self._pump(secured, server)

    @staticmethod
    def _pump(secured: ssl.SSLSocket, server: socket.socket) -> None:
        """Both ways in one thread: two of them in one TLS connection break it now and then."""
        to: dict[socket.socket, socket.socket] = {secured: server, server: secured}
        while True:
            ready = [secured] if secured in to and secured.pending() else select.select(list(to), [], [], 30)[0]
            if not ready:
                return
            for source in ready:
                data = source.recv(65536)
                if data:
                    to[source].sendall(data)
                else:
                    with contextlib.suppress(OSError):
                        to[source].shutdown(socket.SHUT_RDWR)
                    return

    def close(self) -> None:
        self._listener.close()
