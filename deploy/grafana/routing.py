"""The dashboard of decisions: which rules decide, where requests go and go instead, what is refused, who thinks."""

from __future__ import annotations

from deploy.grafana.panels import GREEN, ORANGE, POLICY, RED, TARGET, TEAM, Board, Panel
from deploy.grafana.promql import per_hour, portion, quantile, rate, rise, share, top, where

_D = where("policy", "target")
_T = where("target")
_REFUSED = where("team", "policy", also='target="none",code!="client_gone"')

_HITS = rise("decisions_total", _D, "policy, rule")

_RULES = (
    Panel(
        "Decisions by rule",
        ((rate("decisions_total", _D, "policy, rule"), "{{policy}}: {{rule}}"),),
        "Decisions a second by policy and rule; pin: the client named a model or target. A rule that stops after a "
        "reload is shadowed or no longer true: `pointsman explain` with such a request says why.",
        unit="reqps",
        kind="stack",
        width=12,
    ),
    Panel(
        "Decisions by target",
        ((rate("decisions_total", _D, "target"), "{{target}}"),),
        "Decisions a second by the target put first; none: no target was left, and the request was refused. One that "
        "gets all although another should share: its rank or weight.",
        unit="reqps",
        kind="stack",
        width=12,
    ),
    Panel(
        "Rules",
        (
            (_HITS, ""),
            (f"{_HITS} / on () group_left () ({rise('decisions_total', _D)} > 0)", ""),
        ),
        "How often each rule decided in the chosen time, and its share. A rule of the policy that is not here "
        "decided nothing: `pointsman check` finds dead ones, recorded traffic (`pointsman replay`) rare ones.",
        kind="table",
        columns=(("Decisions", "short"), ("Share", "percentunit")),
        width=12,
    ),
    Panel(
        "Where each rule went",
        ((top(rise("decisions_total", _D, "rule, target"), 20), "{{rule}} → {{target}}"),),
        "Decisions in the chosen time by rule and first target. A rule that goes to its second rung although the "
        "first one is well: a constraint or a capability drops the first; `pointsman explain` names it.",
        kind="bars",
        width=12,
    ),
)

_FALLBACKS = (
    Panel(
        "Fallbacks",
        ((rate("fallbacks_total", where("target"), "chosen, target, reason"), "{{chosen}} → {{target}}: {{reason}}"),),
        "Requests a second that another target answered than the one put first, and why. Clients notice nothing but "
        "time, and cost if it is dearer. The first name is the one to look at in the dashboard Targets.",
        unit="reqps",
        width=12,
        goes="pointsman-targets",
    ),
    Panel(
        "Share of requests that fell back, by rule",
        ((share(rate("fallbacks_total", "", "rule"), rate("decisions_total", where("policy"), "rule")), "{{rule}}"),),
        "Share of the rule's requests that another target answered than was put first. Above a few percent for long: "
        "the first one cannot hold its load.",
        unit="percentunit",
        width=12,
        steps=((None, GREEN), (0.05, ORANGE), (0.2, RED)),
    ),
    Panel(
        "Attempts made again",
        (
            (rate("retries_total", _T, "reason"), "{{reason}}"),
            (rate("hedges_total", _T, "result"), "hedge, {{result}}"),
        ),
        "Attempts a second after a failed one, by how that one failed. rate_limited: ask for less or for more quota; "
        "timeouts: the server is too slow; auth: the gateway's key. Hedges run beside a slow attempt: where many win, "
        "its target is too slow; withheld: too much is under way.",
        unit="reqps",
        kind="stack",
    ),
    Panel(
        "Streams interrupted",
        (
            (rate("stream_interrupted_total", _T, "target, cause"), "{{target}}: {{cause}}"),
            (rate("client_disconnect_total"), "the client left"),
            (rate("stream_anomalies_total", _T, "target"), "{{target}}: odd, and tolerated"),
        ),
        "Streams a second that ended with an error event after their first word, and requests whose client left. The "
        "first cannot be made good by a fallback; the second often means that it took too long. Odd: a server that "
        "writes its streams against the rules, and may break clients that read them strictly.",
        unit="reqps",
    ),
    Panel(
        "By what was asked for",
        ((top(rise("requests_total", where("team", "policy", "target"), "model_asked")), "{{model_asked}}"),),
        "Requests in the chosen time by the `model` that clients sent. auto is routed by policy, all other names are "
        "pinned.",
        kind="bars",
    ),
)

_REFUSALS = (
    Panel(
        "Refused by the gateway",
        ((rate("refusals_total", "", "code"), "{{code}}"),),
        "Requests a second for which nothing was sent anywhere. policy_denied, unsupported_capability and "
        "context_length_exceeded: the policy's word, and clients must not try again; no_target_available and "
        "overloaded: too little is well; the others are clients' mistakes.",
        unit="reqps",
        kind="stack",
        width=12,
    ),
    Panel(
        "Refused, by team and rule",
        ((top(rise("requests_total", _REFUSED, "team, rule, code")), "{{team}}, {{rule}}: {{code}}"),),
        "Whom and by which rule, in the chosen time. `/v1/explain` with a key that may explain names the constraint "
        "that dropped each target.",
        kind="bars",
        width=12,
    ),
)

_THINKING = (
    Panel(
        "Share of reasoning",
        (
            (
                portion(
                    rate("tokens_total", where("team", "target", also='class="reasoning"'), "target"),
                    rate("tokens_total", where("team", "target", also='class=~"output|reasoning"'), "target"),
                ),
                "{{target}}",
            ),
        ),
        "Share of what each target writes that is thinking. It is paid for like an answer. Where a rule does not "
        "need it: `thinking: never`.",
        unit="percentunit",
        most=1,
    ),
    Panel(
        "Thought although told not to",
        ((rate("thinking_violations_total", _T, "target"), "{{target}}"),),
        "Answers a second with reasoning although thinking was off. After three of them the target is no longer "
        "believed.",
        unit="reqps",
    ),
    Panel(
        "No longer believed",
        ((f"max by (target) (pointsman_target_thinking_doubted{{{_T}}}) == 1", ""),),
        "Targets that no rule gets that needs one which does not think, until `pointsman probe` sees them obey. "
        "Empty: all keep their word.",
        kind="table",
        columns=(("Doubted", "bool_yes_no"),),
    ),
)

_SHADOWS = (
    Panel(
        "Shadows",
        ((rate("shadow_requests_total", _T, "shadow, target, outcome"), "{{shadow}} → {{target}}: {{outcome}}"),),
        "Copies a second that went to a second target, and how they ended. No client waits for one.",
        unit="reqps",
    ),
    Panel(
        "Shadows left out",
        ((rate("shadow_skipped_total", "", "shadow, reason"), "{{shadow}}: {{reason}}"),),
        "Copies that were decided on and not sent. too_many: the shadow is too slow for its share, make it smaller; "
        "others say that no target was able or well.",
        unit="reqps",
    ),
    Panel(
        "Shadows beside the targets: first event, p95",
        (
            (quantile(0.95, "shadow_first_event_seconds", _T, "shadow, target"), "{{shadow}}: {{target}}"),
            (quantile(0.95, "time_to_first_event_seconds", _T), "what clients got"),
        ),
        "Would the shadow have been faster? Its cost is in the dashboard Cost.",
        unit="s",
    ),
)

_POLICIES = (
    Panel(
        "Policies",
        (("pointsman_policy_info", ""),),
        "The policies being served and the digest of each. Different digests of one policy are replicas that have "
        "not all been reloaded.",
        kind="table",
        width=12,
        hidden=("__name__", "job", "Value"),
    ),
    Panel(
        "Cost an hour by policy",
        ((per_hour("cost_usd_total", where("policy", "team", "target"), "policy"), "{{policy}}"),),
        "US dollars an hour by the policy that decided. A step behind a reload is what the change did: compare it "
        "with what `pointsman explain --diff` foresaw.",
        unit="currencyUSD",
        kind="stack",
        width=12,
        goes="pointsman-cost",
    ),
)

BOARD = Board(
    "pointsman-routing",
    "Routing",
    "Which rules decide, where requests go and go instead, what is refused, who thinks.",
    (TEAM, POLICY, TARGET),
    {
        "Rules": _RULES,
        "Fallbacks": _FALLBACKS,
        "Refusals": _REFUSALS,
        "Thinking": _THINKING,
        "Shadows": _SHADOWS,
        "Policies": _POLICIES,
    },
)
