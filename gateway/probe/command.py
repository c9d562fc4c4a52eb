"""`pointsman probe`: asks every target what it really does, and tells where that is not what the configuration says.

Here: which targets, in which order, what it may cost, what is printed, the exit code, and what becomes of it: recorded
in the file on request, and told to a running gateway, which believes a target again that was seen to obey its thinking
switch. One request at a time is sent to a backend; backends are asked side by side.
"""

from __future__ import annotations

import contextlib
import queue
import ssl
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx

from gateway import configfile
from gateway.admin import key_of, url_of
from gateway.core.errors import ConfigError, Problem
from gateway.core.servers import dialects
from gateway.core.types import Target
from gateway.printing import BROKEN, NO, OK, broken, failed, print_json
from gateway.probe.auth import client, opened, revealed
from gateway.probe.record import difference, edited, record
from gateway.probe.target import Probe, Row
from gateway.problems import suggest
from gateway.progress import Progress, waiting
from gateway.sidecar.process import Reserved, beside
from gateway.site import Site, load_site

_SIDE_BY_SIDE = 8
_TELL_S = 3.0
_SHOWN: Mapping[str, str] = {"same": "", "note": "", "differs": "DIFFERS", "wrong": "WRONG", "failed": "FAILED"}


@dataclass(slots=True)
class Options:
    """What the command line says."""

    config: Path = Path("pointsman.yaml")
    targets: list[str] = field(default_factory=list)
    dry_run: bool = False
    as_json: bool = False
    write: bool = False
    window: bool = False
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Report:
    """What was seen of one target."""

    target: Target
    rows: tuple[Row, ...]
    requests: int
    tokens: int

    @property
    def fine(self) -> bool:
        """All is as configured."""
        return all(row.verdict in ("same", "note") for row in self.rows)

    def changes(self) -> dict[str, Any]:
        """The settings that would make the file say what was seen."""
        return {name: value for row in self.rows for name, value in row.record.items()}

    def obeys(self) -> bool:
        """It was told not to think, and did not; how a doubted target is believed again."""
        return any(row.check == "thinking" and row.seen in ("switchable", "never") for row in self.rows)


def run(options: Options, environ: Mapping[str, str], out: IO[str] | None = None) -> int:
    """Probe: 0 where all is as configured or was recorded, 1 where it is not, 2 where nothing could be asked."""
    out = out or sys.stdout
    try:
        before = options.config.read_text(encoding="utf-8") if options.config.is_file() else ""
        reserved = Reserved()
        with waiting("reading the configuration"):
            site = load_site(options.config, environ, secrets=not options.dry_run, door=reserved.door)
        targets = _wanted(site, options.targets)
        probes = [_probe(target, options) for target in targets]
    except ConfigError as error:
        return broken(error, as_json=options.as_json, out=out)
    except (OSError, LookupError, UnicodeDecodeError) as error:
        return failed("probe", error, as_json=options.as_json, out=out)
    try:
        if not options.as_json or options.dry_run:
            _tell_cost(probes, out, as_json=options.as_json)
        if options.dry_run:
            return OK
        with _sidecar(site, targets, reserved, environ):
            reports = _asked(probes)
    except BrokenPipeError:  # `| head`: no server is to blame
        raise
    except OSError as error:
        return failed("probe", error, as_json=options.as_json, out=out)
    finally:
        for probe in probes:
            probe.client.close()
    told = _tell_gateway(site, options.config, environ, reports)
    if not options.as_json:
        print(*(_table(one) for one in reports), *told, sep="\n", file=out)
    problems = _recorded(options, before, reports, environ, out) if options.write else []
    changes = any(one.changes() for one in reports)
    if changes and not options.write and not options.as_json:
        print(f"pointsman probe --config {options.config} --write puts these differences into the file", file=out)
    left = [row for one in reports for row in one.rows if _SHOWN[row.verdict] and not (options.write and row.record)]
    code = BROKEN if problems else NO if left else OK
    if options.as_json:
        made: dict[str, Any] = {"ok": code == OK, "targets": [_plain(one) for one in reports]}
        made["written"] = options.write and changes and not problems
        print_json(made | ({"problems": [asdict(one) for one in problems]} if problems else {}), out)
    return code


def _recorded(
    options: Options, before: str, reports: Sequence[Report], environ: Mapping[str, str], out: IO[str]
) -> Sequence[Problem]:
    """Put what differs into the file and show how that changes it; what is wrong, where it is left as it was."""
    changes = {one.target.name: one.changes() for one in reports if one.changes()}
    if not changes:
        return []
    try:
        after = edited(before, changes)
        print(difference(before, after, str(options.config)), file=sys.stderr if options.as_json else out)
        record(options.config, before, after, environ)
    except (ConfigError, OSError) as error:
        if not options.as_json:
            print(f"{error}\npointsman probe: {options.config} is left as it was", file=sys.stderr)
        return error.problems if isinstance(error, ConfigError) else [Problem(str(options.config), 0, "", str(error))]
    return []


def _sidecar(
    site: Site, targets: Sequence[Target], reserved: Reserved, environ: Mapping[str, str]
) -> contextlib.AbstractContextManager[None]:
    """A litellm process of our own, where a target is behind one; that of a gateway that runs answers only to it."""
    if site.sidecar is None or site.sidecar.targets.isdisjoint(target.name for target in targets):
        return contextlib.nullcontext()
    return beside(site.sidecar, reserved.door(), environ)


def _wanted(site: Site, names: Sequence[str]) -> list[Target]:
    """The targets named; all where none is. Raises LookupError."""
    known = {target.name: target for target in site.fleet.targets}
    for name in names:
        if name not in known:
            raise LookupError(f"no target {name!r:.80}: {suggest(name, known)}")
    return [known[name] for name in dict.fromkeys(names or known)]


def _probe(target: Target, options: Options) -> Probe:
    try:
        auth = opened(target.backend)
        made = client(target.backend, dialects.prepare(target), options.timeout_s, auth)
    except (ssl.SSLError, httpx.InvalidURL) as error:
        raise OSError(f"target {target.name}: {error}") from None
    return Probe(target, made, lambda: revealed(target.backend, auth), options.window)


def _asked(probes: Sequence[Probe]) -> list[Report]:
    """Ask all of them, the targets of a backend one after the other."""
    by_backend: dict[str, list[Probe]] = {}
    for probe in probes:
        by_backend.setdefault(probe.target.backend.name, []).append(probe)

    waiting: queue.SimpleQueue[list[Probe]] = queue.SimpleQueue()
    for those in by_backend.values():
        waiting.put(those)
    failures: list[BaseException] = []

    def ask() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                for probe in waiting.get_nowait():
                    try:
                        probe.run()
                    except BaseException as error:
                        failures.append(error)

    # Daemons, not an executor's: Ctrl-C must not wait for servers that are still thinking.
    asking = [threading.Thread(target=ask, daemon=True) for _ in range(min(len(by_backend), _SIDE_BY_SIDE))]
    for thread in asking:
        thread.start()
    most = sum(step.requests for probe in probes for step in probe.steps())
    progress = Progress("probing", sys.stderr)
    try:
        for thread in asking:
            while thread.is_alive():
                thread.join(0.1)
                progress.at(sum(probe.requests for probe in probes), most)
    finally:
        progress.done()
    if failures:
        raise failures[0]
    return [Report(one.target, tuple(one.rows), one.requests, one.tokens) for one in probes]


def _tell_cost(probes: Sequence[Probe], out: IO[str], *, as_json: bool) -> None:
    requests = sum(step.requests for probe in probes for step in probe.steps())
    tokens = sum(step.tokens for probe in probes for step in probe.steps())
    if as_json:
        steps = {probe.target.name: [asdict(step) for step in probe.steps()] for probe in probes}
        print_json({"ok": True, "requests": requests, "tokens": tokens, "targets": steps}, out)
        return
    many = f"{len(probes)} target" + ("s" if len(probes) != 1 else "")
    print(f"probing {many}: at most {requests} requests and about {tokens:,} tokens", file=out)
    for probe in probes:
        parts = ", ".join(f"{step.name} {step.tokens:,}" for step in probe.steps() if step.tokens)
        print(f"  {probe.target.name}: {parts}", file=out)
    out.flush()


def _table(report: Report) -> str:
    target = report.target
    lines = [(row.check, row.configured or "-", row.seen, _SHOWN[row.verdict], row.note) for row in report.rows]
    head = ("", "configured", "seen", "", "")
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(3)]
    shown = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False)), *filter(None, line[3:])])
        for line in (head, *lines)
    ]
    url = target.backend.endpoints[0].url
    more = f" (the first of {len(target.backend.endpoints)})" if len(target.backend.endpoints) > 1 else ""
    title = (
        f"\n{target.name}: {target.upstream_id} at {url}{more}, {report.requests} requests, {report.tokens:,} tokens"
    )
    return "\n".join([title, *(f"  {line}".rstrip() for line in shown)])


def _plain(report: Report) -> dict[str, Any]:
    return {
        "target": report.target.name,
        "endpoint": report.target.backend.endpoints[0].url,
        "as_configured": report.fine,
        "requests": report.requests,
        "tokens": report.tokens,
        "checks": [{**asdict(row), "record": dict(row.record)} for row in report.rows],
    }


def _tell_gateway(site: Site, config: Path, environ: Mapping[str, str], reports: Sequence[Report]) -> list[str]:
    """Tell a gateway that runs here which targets obey. Nobody listening is nothing to speak of."""
    said: list[str] = []
    names = [one.target.name for one in reports if one.obeys()]
    if not names or site.listen_admin.port == 0:
        return []
    headers = {}
    key = key_of(configfile.read(config)[1], environ, config.parent)
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    with httpx.Client(base_url=url_of(site.listen_admin), headers=headers, timeout=_TELL_S, trust_env=False) as admin:
        for name in names:
            try:
                answer = admin.post(f"/v1/targets/{name}/probed")
                doubted = answer.status_code == 200 and answer.json().get("was_doubted")
            except (httpx.HTTPError, ValueError, AttributeError):
                return said
            if answer.status_code == 401:
                return ["the gateway wants its admin key, which the configuration has as a hash: POINTSMAN_ADMIN_KEY"]
            if doubted:
                said.append(f"the gateway believes {name} again: it was doubted for thinking unasked")
    return said
