"""Every family that the gateway exports of requests and of itself: its name, type, labels and meaning.

The list is also read by tests: each is documented in docs/metrics.md and used by something there. How series are kept
and written is in `series`, what is counted in `metrics`, what a scrape looks up in `present`. Nothing
here is a ratio where two counters say more, and every duration is in seconds.
"""

from __future__ import annotations

from gateway.core.types import NANO_PER_USD
from gateway.telemetry.series import Family

#: Seconds. Answers of language models take from milliseconds (a cached short one) to minutes (long thinking).
DURATION_BUCKETS_S = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5,
    10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
#: Seconds, 50 microseconds to 100 milliseconds: what the gateway itself adds.
OVERHEAD_BUCKETS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1)
#: Seconds between two tokens: from a small model on a fast server to a large one that is overloaded.
PER_TOKEN_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip

# -- of requests --

REQUESTS = Family(
    "pointsman_requests_total",
    "counter",
    ("model_asked", "policy", "rule", "target", "team", "code"),
    "Requests that ended, by what was asked for and how it ended (code ok, client_gone or an error code).",
)
DECISIONS = Family(
    "pointsman_decisions_total",
    "counter",
    ("policy", "rule", "target"),
    "Decisions by the rule that matched and the target it put first; target none: nothing was left.",
)
ATTEMPTS = Family(
    "pointsman_attempts_total", "counter", ("target", "outcome"), "Attempts at a target, by how they ended."
)
RETRIES = Family(
    "pointsman_retries_total",
    "counter",
    ("reason", "target"),
    "Attempts after the first of a request, by the target of the attempt before and how that one ended.",
)
FALLBACKS = Family(
    "pointsman_fallbacks_total",
    "counter",
    ("rule", "chosen", "target", "reason"),
    "Requests answered by another target than the decision put first; reason is why the first did not answer.",
)
REFUSALS = Family(
    "pointsman_refusals_total",
    "counter",
    ("code",),
    "Requests that the gateway refused itself: nothing was sent to any target.",
)
HEDGES = Family(
    "pointsman_hedges_total",
    "counter",
    ("target", "result"),
    "Second attempts beside a first one that was slow to begin, by the target they went to: won, lost or failed; or "
    "withheld, by the target of the first, for lack of room.",
)
INTERRUPTED = Family(
    "pointsman_stream_interrupted_total",
    "counter",
    ("target", "cause"),
    "Streams that ended with an error event after their first event had been sent.",
)
ANOMALIES = Family(
    "pointsman_stream_anomalies_total",
    "counter",
    ("target",),
    "Oddities of streams that were tolerated: JSON or UTF-8 that is not clean, junk behind the finish, no end marker.",
)
DISCONNECTS = Family("pointsman_client_disconnect_total", "counter", (), "Requests whose client left before their end.")
VIOLATIONS = Family(
    "pointsman_thinking_violations_total",
    "counter",
    ("target",),
    "Answers that held reasoning although thinking was off.",
)

# -- tokens and money --

TOKENS = Family(
    "pointsman_tokens_total",
    "counter",
    ("target", "model", "team", "class"),
    "Tokens by class. The classes do not overlap: input is what was not cached, output what was not reasoning.",
)
COST = Family(
    "pointsman_cost_usd_total",
    "counter",
    ("target", "model", "rule", "team", "policy"),
    "What the attempts cost by the prices in force, in US dollars. Unpriced attempts add nothing.",
    NANO_PER_USD,
)
BASELINE_COST = Family(
    "pointsman_baseline_cost_usd_total",
    "counter",
    ("target", "model", "rule", "team", "baseline"),
    "What the same tokens would have cost at the baseline's price, in US dollars: less cost_usd, what was saved. Only "
    "of requests whose own cost is known.",
    NANO_PER_USD,
)
UNPRICED = Family(
    "pointsman_unpriced_requests_total",
    "counter",
    ("target",),
    "Requests with at least one attempt whose target has no price: missing from cost_usd.",
)
ESTIMATED = Family(
    "pointsman_estimated_usage_requests_total",
    "counter",
    ("target",),
    "Requests whose tokens are the gateway's estimate, because the backend did not say.",
)

# -- times --

DURATION = Family(
    "pointsman_request_duration_seconds",
    "histogram",
    ("target", "stream"),
    "From the arrival of a request to its end.",
)
FIRST_EVENT = Family(
    "pointsman_time_to_first_event_seconds",
    "histogram",
    ("target", "stream"),
    "From the arrival of a request to its first meaningful event, or to its complete answer.",
)
PER_TOKEN = Family(
    "pointsman_time_per_output_token_seconds",
    "histogram",
    ("target",),
    "Of streams that ended well: from the first event to the last, by output token after the first.",
)
OVERHEAD = Family(
    "pointsman_gateway_overhead_seconds",
    "histogram",
    ("rule",),
    "From the arrival of a request until it was first sent upstream: reading, admitting and deciding.",
)

# -- shadows: copies of requests, which count in no other family --

SHADOW_REQUESTS = Family(
    "pointsman_shadow_requests_total",
    "counter",
    ("shadow", "target", "outcome"),
    "Copies that were sent to a second target, by the policy's entry and how they ended.",
)
SHADOW_SKIPPED = Family(
    "pointsman_shadow_skipped_total",
    "counter",
    ("shadow", "reason"),
    "Copies that were decided on and not sent, by why.",
)
SHADOW_TOKENS = Family(
    "pointsman_shadow_tokens_total",
    "counter",
    ("shadow", "target", "class"),
    "Tokens of shadows by class, which are in no other family. The classes do not overlap.",
)
SHADOW_COST = Family(
    "pointsman_shadow_cost_usd_total",
    "counter",
    ("shadow", "target"),
    "What shadows cost, in US dollars, which is in no other family. Unpriced ones add nothing.",
    NANO_PER_USD,
)
SHADOW_UNPRICED = Family(
    "pointsman_shadow_unpriced_requests_total",
    "counter",
    ("shadow", "target"),
    "Shadows whose target has no price: missing from shadow_cost_usd.",
)
SHADOW_FIRST_EVENT = Family(
    "pointsman_shadow_first_event_seconds",
    "histogram",
    ("shadow", "target"),
    "From the sending of a copy to its first meaningful event.",
)
SHADOW_DURATION = Family(
    "pointsman_shadow_duration_seconds",
    "histogram",
    ("shadow", "target"),
    "From the sending of a copy to the end of its answer.",
)

# -- the process as it is --

INFLIGHT = Family("pointsman_inflight_requests", "gauge", (), "Requests being served now.")
MEMORY_USED = Family(
    "pointsman_memory_used_bytes",
    "gauge",
    (),
    "Memory used of the limit that is nearest to its end, as last measured. Absent where there is no limit.",
)
MEMORY_LIMIT = Family(
    "pointsman_memory_limit_bytes",
    "gauge",
    (),
    "That limit: the container's, the address space's or limits.max_memory. Absent where there is none.",
)
MEMORY_PRESSURE = Family(
    "pointsman_memory_pressure",
    "gauge",
    (),
    "Steps that are taken for want of memory: 0 none, 1 connections are not kept, 2 what matters least is refused, 3 "
    "all new requests are.",
)
CONNECTIONS = Family("pointsman_client_connections", "gauge", (), "Clients' connections that are open now.")
LOAD = Family(
    "pointsman_load",
    "gauge",
    ("resource",),
    "What of the process is used, 1 being all it may have: requests under way, or connections.",
)
SHED = Family(
    "pointsman_shed_total",
    "counter",
    ("reason", "priority"),
    "Refused because the process was full: requests, memory, uploads; connections that found no room; and idle "
    "connections that were closed to make some. Priority none: nobody's yet.",
)
LOOP_BLOCKED = Family(
    "pointsman_loop_blocked_seconds_total",
    "counter",
    (),
    "Seconds for which nothing moved, because the event loop stood still for more than one of them at a time.",
)
QUEUE = Family("pointsman_queue_requests", "gauge", (), "Attempts waiting for a connection to their upstream.")
ENDPOINT_INFLIGHT = Family(
    "pointsman_endpoint_inflight",
    "gauge",
    ("target", "endpoint"),
    "Requests of a target under way at an endpoint, shadows among them.",
)
ENDPOINT_LIMIT = Family(
    "pointsman_endpoint_inflight_limit",
    "gauge",
    ("target", "endpoint"),
    "How many requests may be under way at an endpoint, of all its targets together; more wait.",
)
ENDPOINT_STATE = Family(
    "pointsman_endpoint_state",
    "gauge",
    ("target", "endpoint", "state"),
    "1 for the state an endpoint of a target is in.",
)
EJECTIONS = Family(
    "pointsman_ejections_total",
    "counter",
    ("target", "endpoint", "reason"),
    "Times that an endpoint, or a whole target (endpoint all), began to be held back, by the outcome that did it.",
)
TARGET_STATE = Family("pointsman_target_state", "gauge", ("target", "state"), "1 for the state a target is in.")
TARGET_SLOW = Family(
    "pointsman_target_slow",
    "gauge",
    ("target", "latency"),
    "1 for a target that misses a latency target of a policy.",
)
TARGET_DOUBTED = Family(
    "pointsman_target_thinking_doubted",
    "gauge",
    ("target",),
    "1 for a target that thought so often although told not to that its promise is no longer believed.",
)
RELOADS = Family("pointsman_config_reload_total", "counter", ("result",), "Reloads of the configuration.")
RELOADED = Family(
    "pointsman_config_last_reload_success",
    "gauge",
    (),
    "1 when the last reload was taken, 0 when it was rejected and the configuration before it still serves.",
)
LOADED_AT = Family(
    "pointsman_config_last_reload_timestamp_seconds",
    "gauge",
    (),
    "Unix time at which the configuration being served was loaded, at the start or by a reload.",
)
RECORDS = Family(
    "pointsman_decision_records_total",
    "counter",
    ("result",),
    "Decision records, where they are on: written to disk, or lost because it could not keep up or was full.",
)
LOG_LINES = Family(
    "pointsman_log_lines_total",
    "counter",
    ("log", "result"),
    "Lines of the log: written, left out under load with another line to stand for them, or lost.",
)
BUDGET_LIMIT = Family(
    "pointsman_budget_limit_usd",
    "gauge",
    ("team", "key", "period"),
    "What a budget holds: of a key, or of a team (key all). A key without a team has team none.",
)
BUDGET_LEFT = Family(
    "pointsman_budget_left_usd",
    "gauge",
    ("team", "key", "period"),
    "What is not spent of a budget in the running period; below 0 where a soft one is overspent.",
)
BUDGET_ENDS = Family(
    "pointsman_budget_period_end_timestamp_seconds",
    "gauge",
    ("team", "key", "period"),
    "Unix time at which the running period of a budget ends.",
)
SHADOWED = Family(
    "pointsman_limit_shadowed_total",
    "counter",
    ("limit", "scope", "name"),
    "Requests that a limit in shadow mode let pass and would have refused: rpm, tpm, max_concurrent or budget.",
)
STORE_UP = Family(
    "pointsman_store_up",
    "gauge",
    ("store",),
    "1 while the store that replicas share can be used. Absent where there is none.",
)
STORE_CLOCK = Family(
    "pointsman_store_clock_offset_seconds",
    "gauge",
    ("store",),
    "How far this clock is ahead of that of the shared store, by which periods of budgets go; below 0: behind.",
)
STORE_ERRORS = Family(
    "pointsman_store_errors_total",
    "counter",
    ("store", "op"),
    "Calls of the shared store that had no answer to go by; op connect: the store could not be used.",
)
LEDGER_UP = Family(
    "pointsman_ledger_up",
    "gauge",
    (),
    "1 while attempts are booked: the journal is written and the books are made from it. Absent with ledger: none.",
)
LEDGER_LAG = Family(
    "pointsman_ledger_lag_seconds", "gauge", (), "For how long there have been entries that are not in the books yet."
)
LEDGER_PENDING = Family(
    "pointsman_ledger_pending_entries", "gauge", (), "Entries of the journal that are not in the books yet."
)
LEDGER_ENTRIES = Family(
    "pointsman_ledger_entries_total",
    "counter",
    ("kind", "estimated"),
    "Entries that were read into the books; estimated says that a settlement's usage is the gateway's estimate.",
)
LEDGER_ERRORS = Family(
    "pointsman_ledger_errors_total",
    "counter",
    ("op",),
    "Failures to write the journal (journal) or the books (books), and ends of attempts that never began (orphan).",
)
SHIPPED = Family(
    "pointsman_ledger_shipped_entries_total",
    "counter",
    (),
    "Entries that PostgreSQL has for good; those that were shipped twice are counted twice. Absent without postgres.",
)
UNSHIPPED = Family(
    "pointsman_ledger_unshipped_entries", "gauge", (), "Entries of the local books that PostgreSQL does not have yet."
)
SHIPPING_LAG = Family(
    "pointsman_ledger_shipping_lag_seconds",
    "gauge",
    (),
    "How long ago the oldest attempt ended whose entry PostgreSQL does not have yet.",
)
SHIPPING_ERRORS = Family(
    "pointsman_ledger_shipping_errors_total",
    "counter",
    ("reason",),
    "Tries to ship entries that failed, by reason; of reason entry, entries that PostgreSQL can never take.",
)
OTLP_EXPORTS = Family(
    "pointsman_otlp_exports_total",
    "counter",
    ("signal", "outcome"),
    "Requests to the OTLP collector by signal, and by outcome ok, failed (it is tried again) or rejected.",
)
OTLP_EXPORTED = Family(
    "pointsman_otlp_exported_total",
    "counter",
    ("signal",),
    "What the OTLP collector took: spans, or data points of metrics.",
)
OTLP_DROPPED = Family(
    "pointsman_otlp_dropped_total",
    "counter",
    ("signal", "reason"),
    "Spans and data points that are lost, by reason queue_full, failed, rejected or closing.",
)
OTLP_DROPPED_REQUESTS = Family(
    "pointsman_otlp_dropped_requests_total",
    "counter",
    (),
    "Finished requests that are missing from traces and OTLP metrics: the exporter could not keep up.",
)
BUILD = Family("pointsman_build_info", "gauge", ("version", "python"), "Version of the gateway and of its interpreter.")
POLICY = Family("pointsman_policy_info", "gauge", ("policy", "digest"), "The policies being served.")
TARGET = Family(
    "pointsman_target_info",
    "gauge",
    ("target", "model", "family", "backend", "region"),
    "The targets of the configuration being served.",
)
TOKEN_PRICE = Family(
    "pointsman_target_token_price_usd",
    "gauge",
    ("target", "class"),
    "US dollars for one token of a class, where a target has a price: of several length tiers the first.",
)
RETIRES = Family(
    "pointsman_target_retires_timestamp_seconds",
    "gauge",
    ("target",),
    "Unix time of the day on which a target's model is withdrawn, where that is known.",
)

FAMILIES = (
    REQUESTS, DECISIONS, ATTEMPTS, RETRIES, HEDGES, FALLBACKS, REFUSALS, INTERRUPTED, ANOMALIES, DISCONNECTS,
    VIOLATIONS, TOKENS, COST, BASELINE_COST, UNPRICED, ESTIMATED,
    DURATION, FIRST_EVENT, PER_TOKEN, OVERHEAD,
    SHADOW_REQUESTS, SHADOW_SKIPPED, SHADOW_TOKENS, SHADOW_COST, SHADOW_UNPRICED, SHADOW_FIRST_EVENT, SHADOW_DURATION,
    INFLIGHT, MEMORY_USED, MEMORY_LIMIT, MEMORY_PRESSURE, CONNECTIONS, LOAD, SHED, QUEUE,
    ENDPOINT_INFLIGHT, ENDPOINT_LIMIT, ENDPOINT_STATE, EJECTIONS, LOOP_BLOCKED,
    TARGET_STATE, TARGET_SLOW, TARGET_DOUBTED, RELOADS, RELOADED, LOADED_AT, RECORDS, LOG_LINES,
    BUDGET_LIMIT, BUDGET_LEFT, BUDGET_ENDS, SHADOWED, STORE_UP, STORE_CLOCK, STORE_ERRORS,
    LEDGER_UP, LEDGER_LAG, LEDGER_PENDING, LEDGER_ENTRIES, LEDGER_ERRORS,
    SHIPPED, UNSHIPPED, SHIPPING_LAG, SHIPPING_ERRORS, OTLP_EXPORTS, OTLP_EXPORTED, OTLP_DROPPED,
    OTLP_DROPPED_REQUESTS, BUILD, POLICY, TARGET, TOKEN_PRICE, RETIRES,
)  # fmt: skip
#: Counters that requests add to, one series at a time.
COUNTED = (
    REQUESTS, DECISIONS, ATTEMPTS, RETRIES, HEDGES, FALLBACKS, REFUSALS, INTERRUPTED, ANOMALIES, DISCONNECTS,
    VIOLATIONS, COST, BASELINE_COST, UNPRICED, ESTIMATED,
)  # fmt: skip
