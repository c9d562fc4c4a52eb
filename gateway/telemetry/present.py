"""Series that are not counted but looked up when a scrape comes: the process, its configuration and its targets.

What they are called and mean is in `families`; what requests add to is in `metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gateway.telemetry import families
from gateway.telemetry.series import Kept, Rows

if TYPE_CHECKING:
    from gateway.ledger.ledger import Ledger
    from gateway.telemetry.metrics import Metrics


def now(metrics: Metrics) -> Iterator[Kept]:
    """What is not counted but looked up: the process, its configuration and its targets at this moment."""
    vitals, names, records = metrics.vitals, metrics.names, metrics.records
    targets, endpoints = vitals.targets, vitals.endpoints
    yield Rows(families.INFLIGHT, [((), vitals.inflight)])
    yield Rows(families.QUEUE, [((), vitals.queued)])
    yield Rows(families.ENDPOINT_INFLIGHT, [((one.target, one.endpoint), one.inflight) for one in endpoints])
    yield Rows(families.ENDPOINT_LIMIT, [((one.target, one.endpoint), one.limit) for one in endpoints])
    yield Rows(families.ENDPOINT_STATE, _ones((one.target, one.endpoint, one.state) for one in endpoints))
    yield Rows(families.EJECTIONS, vitals.ejections.items())
    yield Rows(families.TARGET_STATE, _ones((one["target"], one["state"]) for one in targets))
    yield Rows(families.TARGET_SLOW, _ones((one["target"], entry) for one in targets for entry in one.get("slow", ())))
    yield Rows(families.TARGET_DOUBTED, [((one["target"],), int(bool(one.get("thinking_doubted")))) for one in targets])
    yield Rows(families.RELOADS, [((result,), count) for result, count in metrics.reloads.items()])
    yield Rows(families.RELOADED, [((), int(metrics.last_reload_ok))])
    yield Rows(families.LOADED_AT, [((), metrics.loaded_at)])
    recorded = [] if records is None else [(("written",), records.written), (("lost",), records.lost)]
    yield Rows(families.RECORDS, recorded)
    yield Rows(
        families.LOG_LINES,
        [
            ((name, result), count)
            for name, log in metrics.logs.items()
            for result, count in (("written", log.written), ("left_out", log.left_out), ("lost", log.lost))
        ],
    )
    if metrics.ledger is not None:
        yield from _ledger(metrics.ledger)
    tally = metrics.otlp
    if tally is not None:
        yield Rows(families.OTLP_EXPORTS, list(tally.exports.items()))
        yield Rows(families.OTLP_EXPORTED, [((signal,), count) for signal, count in list(tally.exported.items())])
        yield Rows(families.OTLP_DROPPED, list(tally.dropped.items()))
        yield Rows(families.OTLP_DROPPED_REQUESTS, [((), tally.records_dropped)])
    yield Rows(families.BUILD, _ones([(metrics.build.get("version", ""), metrics.build.get("python", ""))]))
    yield Rows(families.POLICY, _ones(sorted((names.policies or {}).items())))
    yield Rows(families.TARGET, _ones((f.target, f.model, f.family, f.backend, f.region) for f in names.facts))
    prices = [((f.target, name), usd) for f in names.facts for name, usd in f.token_usd().items()]
    yield Rows(families.TOKEN_PRICE, prices)
    yield Rows(families.RETIRES, [((f.target,), f.retires_at) for f in names.facts if f.retires_at is not None])


def _ledger(ledger: Ledger) -> Iterator[Kept]:
    keeping = ledger.keeping
    yield Rows(families.LEDGER_UP, [((), int(ledger.up))])
    yield Rows(families.LEDGER_LAG, [((), ledger.lag_s)])
    yield Rows(families.LEDGER_PENDING, [((), ledger.pending)])
    counts = dict(keeping.counts)
    expired, settled, estimated = counts.pop("expire", 0), counts.pop("settle", 0), keeping.estimated
    ended = [(("settle", "false"), settled - estimated), (("settle", "true"), estimated), (("expire", "true"), expired)]
    yield Rows(families.LEDGER_ENTRIES, [*ended, *(((kind, "false"), count) for kind, count in counts.items())])
    errors = {"journal": ledger.journal.errors, "books": ledger.database_errors, "orphan": keeping.lost}
    yield Rows(families.LEDGER_ERRORS, [((op,), count) for op, count in errors.items()])
    if (shipping := ledger.shipping) is not None:
        yield Rows(families.SHIPPED, [((), shipping.shipped)])
        yield Rows(families.UNSHIPPED, [((), shipping.unshipped)])
        yield Rows(families.SHIPPING_LAG, [((), shipping.lag_s)])
        yield Rows(families.SHIPPING_ERRORS, [((reason,), count) for reason, count in shipping.errors.items()])


def _ones(rows: Iterable[tuple[str, ...]]) -> list[tuple[tuple[str, ...], float]]:
    """Series that say what they have to say in labels."""
    return [(values, 1) for values in rows]
