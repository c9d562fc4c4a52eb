"""`ledger:` of pointsman.yaml: where books are kept and to which database they are shipped, as written, as settings.

What the file may say about books; keeping them is `gateway.ledger`'s.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from gateway import trust
from gateway.addresses import Address
from gateway.core.quantities import Invalid
from gateway.core.types import Secret
from gateway.fields import Age, Strict
from gateway.ledger import postgres as pg
from gateway.ledger.directory import LedgerSettings, PostgresSettings, default_directory
from gateway.secretref import SecretRef, read_text


def _host(value: str) -> str:
    if not value.startswith("/") and not re.fullmatch(r"[A-Za-z0-9_.-]{1,253}|[0-9a-fA-F:.]{2,45}", value):
        shown = repr(value)[:80] if "@" not in value else "an address with a user, which may hold a password,"
        raise Invalid(f"{shown} is no host", "a name, an IP address, or the folder of a Unix socket")
    return value


def _printable(value: str) -> str:
    if not value.isprintable():
        raise Invalid(f"{value!r:.80} cannot be printed", "printable characters")
    return value


_Word = Annotated[str, Field(min_length=1, max_length=63), AfterValidator(_printable)]


class PostgresDoc(Strict):
    """The PostgreSQL database that this replica's books are shipped to, and that those of all replicas are read from.

    `tls: verify` wants a certificate for `host` from an authority that this machine, or `ca_file`, trusts; it is the
    default but for a Unix socket and this machine. `tls: off` ships unencrypted.
    """

    host: Annotated[str, AfterValidator(_host)] = "localhost"
    port: int = Field(5432, ge=1, le=65_535)
    database: _Word = "pointsman"
    user: _Word = "pointsman"
    password: SecretRef | None = None
    tls: Literal["verify", "off"] | None = None
    ca_file: Annotated[str, Field(min_length=1, max_length=1024)] | None = None

    def files(self) -> list[str]:
        """Those it is read from, apart from the one it stands in."""
        secret = None if self.password is None else self.password.file
        return [one for one in (self.ca_file, secret) if one is not None]

    def settings(self, directory: Path, environ: Mapping[str, str], *, secrets: bool) -> PostgresSettings:
        """The same as values. Raises `Invalid`, whose `at` says which member."""
        if secrets and not pg.installed():  # without secrets it is not this machine that will serve
            raise Invalid(*pg.MISSING)
        near = self.host.startswith("/") or Address(self.host, 0).loopback
        tls = self.tls or ("off" if near and self.ca_file is None else "verify")
        if tls == "verify" and self.host.startswith("/"):
            raise Invalid("means nothing for a Unix socket", "off, or no tls and no ca_file", at=("tls",))
        if tls == "off" and self.ca_file is not None:
            raise Invalid("is for nothing: tls is off", "tls: verify, or no ca_file", at=("ca_file",))
        ca_file = None if self.ca_file is None else directory / self.ca_file
        if ca_file is not None and (wrong := trust.no_certificates(ca_file)):
            raise Invalid(wrong, trust.VALID, at=("ca_file",))
        password = None
        if self.password is not None and secrets:
            try:
                _, text = read_text(self.password, environ, directory)
            except Invalid as error:
                raise Invalid(error.what, error.valid, at=("password",)) from None
            password = Secret(text.rstrip("\r\n"))
        return PostgresSettings(self.host, self.port, self.database, self.user, password, tls == "verify", ca_file)


class LedgerDoc(Strict):
    """The books: what every attempt used and cost, kept on disk. `ledger: none` keeps none.

    `dir` is relative to this file and made if it is not there; left out, it is a folder of this file's own below
    `$XDG_STATE_HOME` or `~/.local/state`. Single attempts are kept for `keep_for`, totals for `keep_totals_for`.
    `durability: full` waits for the disk before anything that was booked is sent, so that books survive a loss of power
    too. `on_error` says what happens to requests while the disk takes nothing: `pass` serves them, and keeps their
    entries in memory as long as there is room for them, `refuse` answers 503. With `postgres` entries are shipped
    there, under the name `replica`, which is the machine's where it is left out.
    """

    dir: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    keep_for: Age = 90 * 86_400.0
    keep_totals_for: Age = 1_096 * 86_400.0
    durability: Literal["normal", "full"] = "normal"
    on_error: Literal["pass", "refuse"] = "pass"
    postgres: PostgresDoc | None = None
    replica: _Word | None = None

    def settings(self, config: Path, environ: Mapping[str, str], *, secrets: bool = True) -> LedgerSettings:
        """The same as values, for this file. Raises `Invalid`, whose `at` says which member.

        Without `secrets` none is looked up.
        """
        directory = default_directory(config, environ) if self.dir is None else config.parent / self.dir
        postgres = None
        if self.postgres is not None:
            try:
                postgres = self.postgres.settings(config.parent, environ, secrets=secrets)
            except Invalid as error:
                raise Invalid(error.what, error.valid, at=("postgres", *error.at)) from None
        elif self.replica is not None:
            raise Invalid("names this replica for nobody", "postgres beside it, or no replica", at=("replica",))
        return LedgerSettings(
            directory,
            self.keep_for,
            self.keep_totals_for,
            self.durability,
            self.on_error,
            postgres,
            self.replica or socket.gethostname(),
        )
