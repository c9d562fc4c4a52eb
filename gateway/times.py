"""Times as answers and kept files say them, and periods in words.

Not here: lines of logs, which have milliseconds, and asking a clock.
"""

from __future__ import annotations

from datetime import UTC, datetime


def moment(wall: float) -> str:
    """A Unix time in RFC 3339, whole seconds of UTC.

    >>> moment(0.9)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def a_period(per: str) -> str:
    """A budget's period with its article.

    >>> a_period("hour"), a_period("day")
    ('an hour', 'a day')
    """
    return f"an {per}" if per == "hour" else f"a {per}"
