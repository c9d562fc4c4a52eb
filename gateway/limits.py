"""What clients may take of one process: made from `limits:` of pointsman.yaml, enforced by `gateway.proxy`."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config import LimitsDoc


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take of this process; sizes in bytes, times in seconds, rates in bytes a second."""

    max_body: int
    max_head: int
    max_buffered: int
    max_connections: int
    max_memory: int | None
    request_head_s: float
    keep_alive_s: float
    min_upload_rate: int

    @staticmethod
    def of(doc: LimitsDoc) -> Limits:
        """The limits as a file states them."""
        return Limits(
            max_body=doc.max_body,
            max_head=doc.max_head,
            max_buffered=doc.max_buffered,
            max_connections=doc.max_connections,
            max_memory=doc.max_memory,
            request_head_s=doc.request_head,
            keep_alive_s=doc.keep_alive,
            min_upload_rate=doc.min_upload_rate,
        )
