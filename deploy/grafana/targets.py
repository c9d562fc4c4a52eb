"""The dashboard of targets: who is well, who is full, who fails, who goes away, and what their own servers say."""

from __future__ import annotations

from deploy.grafana.panels import GREEN, ORANGE, RED, TARGET, YELLOW, Board, Panel
from deploy.grafana.promql import quantile, rate, rise, share, top, where

_T = where("target")
_FAILED = where("target", also='outcome!~"ok|outrun|client_gone|client_error|context_length"')

#: From bad to good; a target that several gateways see differently is in the worst of its states.
_STATES = (
    ("5", "gone", RED, "its server no longer has the model"),
    ("4", "auth", RED, "it refuses the gateway's key"),
    ("3", "ejected", RED, "it failed five times in a row"),
    ("2", "rate_limited", ORANGE, "it asked for time"),
    ("1", "half_open|probing", YELLOW, "the next request tries whether it is back"),
    ("0", "healthy", GREEN, "well"),
)
_WORDS = {value: (f"{state.replace('|', ', ')}: {text}", colour) for value, state, colour, text in _STATES}


def _states(family: str, by: str) -> str:
    return " or ".join(
        f'0 * max by ({by}) ({family}{{{_T},state=~"{state}"}} == 1) + {value}' for value, state, _, _ in _STATES
    )


_DAYS = f"(min by (target) (pointsman_target_retires_timestamp_seconds{{{_T}}}) - time()) / 86400"
_BACKEND = "* on (target) group_left (backend) max by (target, backend) (pointsman_target_info)"
_FAMILY = "on (target) group_left (family) max by (target, family) (pointsman_target_info)"

_NOW = (
    Panel(
        "State",
        ((_states("pointsman_target_state", "target"), "{{target}}"),),
        "The state of each target over time. Orange heals by itself. Yellow waits for a request that tries the "
        "target: without traffic it may be as dead as before, and PointsmanTargetDown stays until it answers. Red for "
        "long: the colour's word says whether it is the server (ejected), the key (auth) or a withdrawn model (gone).",
        kind="states",
        width=16,
        height=9,
        words=_WORDS,
    ),
    Panel(
        "Targets by state",
        ((f"sum by (state) (max by (target, state) (pointsman_target_state{{{_T}}}) == 1)", "{{state}}"),),
        "How many targets are in each state now. All but healthy are left out while others can serve; see State for "
        "which.",
        kind="bars",
        width=8,
        height=9,
    ),
    Panel(
        "Targets",
        (
            (rate("attempts_total", _T, "target"), ""),
            (share(rate("attempts_total", _FAILED, "target"), rate("attempts_total", _T, "target")), ""),
            (quantile(0.95, "time_to_first_event_seconds", _T, "target"), ""),
            (rate("tokens_total", where("target", also='class=~"output|reasoning"'), "target"), ""),
            (f"sum by (target) (pointsman_endpoint_inflight{{{_T}}})", ""),
            (_DAYS, ""),
        ),
        "Each target at the moment: attempts a second, share of them that failed, time to the first event, output "
        "tokens a second, requests under way, days until its model is withdrawn. A target without traffic although "
        "it is well: no rule or rank gets to it.",
        kind="table",
        width=24,
        columns=(
            ("Attempts/s", "reqps"),
            ("Failed", "percentunit"),
            ("First event p95", "s"),
            ("Tokens/s", "short"),
            ("Under way", "short"),
            ("Days left", "short"),
        ),
    ),
)

_NEXT = (
    Panel(
        "Targets left in each family",
        (
            (
                f'count by (family) (max by (target) (pointsman_target_state{{state="healthy"}} == 1) * {_FAMILY})',
                "{{family}}",
            ),
        ),
        "Targets of each family of models that are well. One: the next failure takes the family away. None: rules "
        "that ask for it refuse or go elsewhere.",
        kind="bars",
        steps=((None, RED), (2, ORANGE), (3, GREEN)),
    ),
    Panel(
        "Withdrawn in",
        ((f"sort({_DAYS})", "{{target}}"),),
        "Days until a target's model is withdrawn; from that day it is no candidate. Below 30: name a successor in the "
        "policies now, and try it with `pointsman replay` or a shadow.",
        unit="d",
        kind="bars",
        steps=((None, RED), (30, ORANGE), (90, GREEN)),
    ),
    Panel(
        "Budgets that end next",
        (
            (
                "sort(bottomk(10, min by (team, key, period) (1 - job_team_key_period:pointsman_budget_spent:ratio)))",
                "{{team}} {{key}}, {{period}}",
            ),
        ),
        "Share that is left of the ten emptiest budgets. How long they last: Empty in, in the dashboard Cost.",
        unit="percentunit",
        kind="bars",
        steps=((None, RED), (0.1, ORANGE), (0.25, YELLOW), (0.5, GREEN)),
        most=1,
        goes="pointsman-cost",
    ),
    Panel(
        "Headroom",
        (
            (
                f"sum by (backend, endpoint) (sum by (target, endpoint) (pointsman_endpoint_inflight{{{_T}}}) "
                f"{_BACKEND}) / max by (backend, endpoint) (sum by (target, endpoint) "
                f"(pointsman_endpoint_inflight_limit{{{_T}}}) {_BACKEND})",
                "{{backend}}: {{endpoint}}",
            ),
        ),
        "Requests under way at each endpoint as a share of what it may have (`max_inflight` of its backend). At 1 "
        "further ones wait, then go elsewhere: add a replica, or raise the limit if its server has room.",
        unit="percentunit",
        width=12,
        steps=((None, GREEN), (0.8, ORANGE), (1, RED)),
    ),
    Panel(
        "Waiting for a connection",
        (("sum(pointsman_queue_requests)", "waiting"), ("sum(pointsman_inflight_requests)", "under way")),
        "Attempts that wait because their target has as many requests as it may. Growing: overloaded is next; add a "
        "replica or raise `max_inflight`.",
        width=12,
    ),
)

_FAILURES = (
    Panel(
        "Attempts that failed",
        ((rate("attempts_total", _FAILED, "target, outcome"), "{{target}}: {{outcome}}"),),
        "Attempts a second by how they failed. refused, connect_timeout, tls: the network or a server that is gone. "
        "overloaded, rate_limited, timeouts: too much for it. auth: the key. invalid, protocol: a server that speaks "
        "otherwise.",
        unit="reqps",
        width=12,
    ),
    Panel(
        "Share of attempts that failed",
        ((share(rate("attempts_total", _FAILED, "target"), rate("attempts_total", _T, "target")), "{{target}}"),),
        "Of each target's attempts. A request at fault is not one.",
        unit="percentunit",
        width=12,
        steps=((None, GREEN), (0.05, ORANGE), (0.2, RED)),
    ),
    Panel(
        "Held back",
        ((top(rise("ejections_total", _T, "target, endpoint, reason")), "{{target}} {{endpoint}}: {{reason}}"),),
        "How often a target or one of its endpoints was held back in the chosen time, and what did it. Again and "
        "again: it comes back too weak; give it less weight or fewer requests at once.",
        kind="bars",
        width=12,
    ),
    Panel(
        "Endpoints not well",
        ((f'max by (target, endpoint, state) (pointsman_endpoint_state{{{_T},state!="healthy"}}) == 1', ""),),
        "Replicas that are held back now, while others of their target serve on. Restart or remove them: the others "
        "have their load.",
        kind="table",
        width=12,
        hidden=("Value",),
    ),
)

_LOAD = (
    Panel(
        "Under way by target",
        ((f"sum by (target) (pointsman_endpoint_inflight{{{_T}}})", "{{target}}"),),
        "Requests at each target now, shadows among them. One that climbs alone answers too slowly: Per output token "
        "in the dashboard Latency.",
        kind="stack",
    ),
    Panel(
        "Under way by endpoint",
        ((f"sum by (target, endpoint) (pointsman_endpoint_inflight{{{_T}}})", "{{target}} {{endpoint}}"),),
        "The same by replica. The one with the fewest of two gets the next; a replica far above the others answers "
        "more slowly.",
    ),
    Panel(
        "Tokens by target",
        ((rate("tokens_total", _T, "target, class"), "{{target}}: {{class}}"),),
        "Tokens a second by target and class, which do not overlap: input was not cached, output is not reasoning. "
        "No cached ones at a server that could: prompts do not begin alike, or go to another replica each time.",
        kind="stack",
    ),
)


def _vllm(of: float, histogram: str) -> str:
    return f"histogram_quantile({of}, sum by (le, model_name) (rate(vllm:{histogram}_bucket[$__rate_interval])))"


_VLLM = (
    Panel(
        "Running and waiting",
        (
            ("sum by (model_name) (vllm:num_requests_running)", "{{model_name}}: running"),
            ("sum by (model_name) (vllm:num_requests_waiting)", "{{model_name}}: waiting"),
        ),
        "What vLLM itself has in work and in its queue. Waiting ones while ours are few: others use the server too. "
        "It needs vLLM's /metrics in Prometheus: deploy/prometheus/backends.yml.",
    ),
    Panel(
        "Memory for prompts in use",
        (("max by (model_name) (vllm:kv_cache_usage_perc)", "{{model_name}}"),),
        "Share of the KV cache that is in use. Near 1 requests wait or are begun anew (Preemptions): fewer at once, "
        "shorter prompts, or more memory.",
        unit="percentunit",
        most=1,
        steps=((None, GREEN), (0.85, ORANGE), (0.95, RED)),
    ),
    Panel(
        "First token: theirs and ours, p95",
        (
            (_vllm(0.95, "time_to_first_token_seconds"), "vLLM: {{model_name}}"),
            (
                quantile(0.95, "time_to_first_event_seconds", where("target", also='stream="true"'), "target"),
                "ours: {{target}}",
            ),
        ),
        "Theirs is measured in vLLM, ours at the gateway. The difference is the network, a proxy between, and failed "
        "attempts.",
        unit="s",
    ),
    Panel(
        "Per output token, p95",
        ((_vllm(0.95, "inter_token_latency_seconds"), "{{model_name}}"),),
        "Seconds from token to token, by vLLM's own clock. Climbing with Running: it batches too many; lower "
        "`max_inflight` or add a replica.",
        unit="s",
    ),
    Panel(
        "Prompts found in its cache",
        (
            (
                "sum by (model_name) (rate(vllm:prefix_cache_hits_total[$__rate_interval])) / "
                "(sum by (model_name) (rate(vllm:prefix_cache_queries_total[$__rate_interval])) > 0)",
                "{{model_name}}",
            ),
        ),
        "Share of prompt tokens that vLLM need not read again. Higher is faster and cheaper; sticky conversations "
        "raise it.",
        unit="percentunit",
        most=1,
    ),
    Panel(
        "Preemptions",
        (("sum by (model_name) (rate(vllm:num_preemptions_total[$__rate_interval]))", "{{model_name}}"),),
        "Requests a second that vLLM set aside for want of memory and must begin anew. Should be none.",
        unit="reqps",
    ),
)

_LLAMA = (
    Panel(
        "In work and put off",
        (
            ("sum by (instance) (llamacpp:requests_processing)", "{{instance}}: in work"),
            ("sum by (instance) (llamacpp:requests_deferred)", "{{instance}}: put off"),
        ),
        "What llama.cpp itself has in its slots and in its queue. It needs its /metrics (--metrics) in Prometheus: "
        "deploy/prometheus/backends.yml.",
    ),
    Panel(
        "Tokens a second",
        (
            ("sum by (instance) (rate(llamacpp:prompt_tokens_total[$__rate_interval]))", "{{instance}}: read"),
            ("sum by (instance) (rate(llamacpp:tokens_predicted_total[$__rate_interval]))", "{{instance}}: written"),
        ),
        "Tokens that llama.cpp read and wrote. Level while requests are put off: it is at its limit.",
    ),
    Panel(
        "Seconds a token",
        (
            (
                "sum by (instance) (rate(llamacpp:tokens_predicted_seconds_total[$__rate_interval])) / "
                "(sum by (instance) (rate(llamacpp:tokens_predicted_total[$__rate_interval])) > 0)",
                "{{instance}}: written",
            ),
            (
                "sum by (instance) (rate(llamacpp:prompt_seconds_total[$__rate_interval])) / "
                "(sum by (instance) (rate(llamacpp:prompt_tokens_total[$__rate_interval])) > 0)",
                "{{instance}}: read",
            ),
        ),
        "Its own time for each token. Compare with Per output token in the dashboard Latency: the difference is not "
        "the model.",
        unit="s",
        goes="pointsman-latency",
    ),
)

BOARD = Board(
    "pointsman-targets",
    "Targets",
    "Who is well, who is full, who fails, who goes away, and what their own servers say.",
    (TARGET,),
    {
        "Now": _NOW,
        "What falls over next": _NEXT,
        "Failures": _FAILURES,
        "Load": _LOAD,
        "vLLM, by its own metrics": _VLLM,
        "llama.cpp, by its own metrics": _LLAMA,
    },
)
