"""The dashboard of time: how long clients wait, whether it is the gateway or the targets, and what makes it long."""

from __future__ import annotations

from deploy.grafana.panels import GREEN, ORANGE, RED, TARGET, Board, Panel
from deploy.grafana.promql import NOW, mean, portion, quantile, rate, where

_T = where("target")
_STREAM = where("target", also='stream="true"')
_FIRST, _ALL, _OWN, _TOKEN = (
    "time_to_first_event_seconds",
    "request_duration_seconds",
    "gateway_overhead_seconds",
    "time_per_output_token_seconds",
)


def _three(histogram: str, filters: str = "") -> tuple[tuple[str, str], ...]:
    return tuple((quantile(of, histogram, filters), f"p{round(of * 100)}") for of in (0.5, 0.95, 0.99))


def _buckets(histogram: str, filters: str = "") -> tuple[tuple[str, str], ...]:
    return ((f"sum by (le) (increase(pointsman_{histogram}_bucket{{{filters}}}[{NOW}]))", "{{le}}"),)


_OURS, _WAIT, _END = mean(_OWN), mean(_FIRST, _T), mean(_ALL, _T)

_REACHED = rate("requests_total", where("target", also='target!="none"'))

_WHOSE = (
    Panel(
        "Where the time goes",
        (
            (_OURS, "in the gateway, before it is sent"),
            (f"clamp_min({_WAIT} - {_OURS}, 0)", "at the target, to the first event"),
            (f"clamp_min({_END} - {_WAIT}, 0)", "at the target, from there to the end"),
        ),
        "Seconds of an average request. The lowest band is us: reading, admitting, deciding. The middle one is the "
        "target's queue and prompt, with failed attempts before it; the upper one is its writing. The band that grew "
        "is the answer.",
        unit="s",
        kind="stack",
        width=16,
        height=9,
    ),
    Panel(
        "Our part of the wait",
        ((f"({_OURS}) / ({_WAIT} > 0)", ""),),
        "Share of the time to the first event that passes in the gateway. Some percent: it is them. Above a tenth "
        "with slow answers: it is us; look at Processor, and at the rules in Our share by rule.",
        unit="percentunit",
        kind="stat",
        width=4,
        height=9,
        steps=((None, GREEN), (0.1, ORANGE), (0.3, RED)),
    ),
    Panel(
        "Attempts for a request",
        ((f"{rate('attempts_total', _T)} / ({_REACHED} > 0)", ""),),
        "Attempts made for each request that reached a target. 1 is best: each further attempt's wait is in its "
        "request's time to the first event. Above 1.1: Attempts that failed says at which target.",
        kind="stat",
        width=4,
        height=9,
        steps=((None, GREEN), (1.1, ORANGE), (1.5, RED)),
        goes="pointsman-targets",
    ),
)

_FIRST_ROW = (
    Panel(
        "To the first event",
        _three(_FIRST, _STREAM),
        "From the arrival of a streamed request to its first word, thought or call. The dots are single requests: "
        "their request_id finds log line, decision and trace.",
        unit="s",
        exemplars=True,
    ),
    Panel(
        "To the first event by target, p95",
        ((quantile(0.95, _FIRST, _T, "target"), "{{target}}"),),
        "19 of 20 answers began within this; without a stream, the whole answer counts. One target that is slow "
        "alone: its queue (dashboard Targets). All at once: us, or longer prompts.",
        unit="s",
        exemplars=True,
    ),
    Panel(
        "To the first event, heat map",
        _buckets(_FIRST, _STREAM),
        "How many streamed requests began after how long. Two bands are two kinds of traffic or of targets, which no "
        "quantile shows; a band at the top is a clock that ran out.",
        unit="s",
        kind="heat",
        exemplars=True,
    ),
)

_TOKEN_ROW = (
    Panel(
        "Per output token",
        _three(_TOKEN, _T),
        "Seconds from token to token of streams that ended well. Reading speed is about 0.1; above that people wait.",
        unit="s",
        exemplars=True,
    ),
    Panel(
        "Per output token by target, p95",
        ((quantile(0.95, _TOKEN, _T, "target"), "{{target}}"),),
        "Seconds from token to token of 19 in 20 streams. Where one target slows down, its server has too many "
        "requests at once or a smaller machine: give it fewer (`max_inflight`) or another replica.",
        unit="s",
        exemplars=True,
    ),
    Panel(
        "Output tokens by target",
        ((rate("tokens_total", where("target", also='class=~"output|reasoning"'), "target"), "{{target}}"),),
        "Tokens a second that each target writes. Where this stays level while Per output token climbs, the server "
        "is at its limit.",
        kind="stack",
    ),
)

_END_ROW = (
    Panel(
        "End to end",
        _three(_ALL, _T),
        "From the arrival of a request to its end, streamed or not. Long answers are long: compare with Per output "
        "token before calling it slow.",
        unit="s",
        exemplars=True,
    ),
    Panel(
        "End to end by target, p95",
        ((quantile(0.95, _ALL, _T, "target"), "{{target}}"),),
        "19 of 20 answers of the target were complete within this. Near the clock `total`: clients get "
        "upstream_timeout next.",
        unit="s",
        exemplars=True,
    ),
    Panel(
        "Per output token, heat map",
        _buckets(_TOKEN, _T),
        "How many streams wrote at which pace, in seconds a token. A second, slower band is one replica or target of "
        "several.",
        unit="s",
        kind="heat",
        exemplars=True,
    ),
)

_CPU = "rate(process_cpu_seconds_total[$__rate_interval]) * on (job, instance) group_left () pointsman_build_info"
_US = (
    Panel(
        "Our share",
        _three(_OWN),
        "From the arrival of a request until it is sent on. Some hundred microseconds; more with long prompts, which "
        "are read whole. Growing without longer prompts: Processor.",
        unit="s",
        exemplars=True,
    ),
    Panel(
        "Our share by rule, p95",
        ((quantile(0.95, _OWN, "", "rule"), "{{rule}}"),),
        "A rule that asks for signals of the text costs more than one that does not. One rule far above the others: "
        "see what its `when` reads with `pointsman explain`.",
        unit="s",
        exemplars=True,
    ),
    Panel(
        "Our share, heat map",
        _buckets(_OWN),
        "How many requests spent how long in the gateway. A band far above the others is one kind of request: long "
        "prompts, or a rule that reads much.",
        unit="s",
        kind="heat",
        exemplars=True,
    ),
    Panel(
        "Processor",
        ((_CPU, "{{instance}}"),),
        "CPUs that each gateway process uses; one is the most it can. Near one, requests wait for it: add replicas.",
        steps=((None, GREEN), (0.7, ORANGE), (0.9, RED)),
    ),
    Panel(
        "Waiting for a connection",
        (("sum(pointsman_queue_requests)", "waiting"),),
        "Attempts that wait for a connection to their target. More than none for long: Headroom in the dashboard "
        "Targets.",
        goes="pointsman-targets",
    ),
    Panel(
        "Targets too slow for a policy",
        ((f"sum by (target, latency) (pointsman_target_slow{{{_T}}})", "{{target}}: {{latency}}"),),
        "1 while a target misses a `latency` target of a policy and others are taken first. Empty: no policy has "
        "one, or all are kept.",
    ),
    Panel(
        "Attempts made again",
        ((rate("retries_total", _T, "target, reason"), "{{target}}: {{reason}}"),),
        "Attempts a second that followed a failed one, by the target that failed and how. Timeouts here are seconds of "
        "waiting in To the first event.",
        unit="reqps",
        width=12,
    ),
    Panel(
        "Reasoning",
        (
            (
                portion(
                    rate("tokens_total", where("target", also='class="reasoning"'), "target"),
                    rate("tokens_total", where("target", also='class=~"output|reasoning"'), "target"),
                ),
                "{{target}}",
            ),
        ),
        "Share of what a target writes that is thinking. Clients wait for it before the first word. Where it need "
        "not be: `thinking` in the policy.",
        unit="percentunit",
        width=12,
        most=1,
    ),
)

BOARD = Board(
    "pointsman-latency",
    "Latency",
    "How long clients wait, whether it is the gateway or the targets, and what makes it long.",
    (TARGET,),
    {
        "Us or them?": _WHOSE,
        "The first event": _FIRST_ROW,
        "Each token": _TOKEN_ROW,
        "To the end": _END_ROW,
        "The gateway, and what lengthens the wait": _US,
    },
)
