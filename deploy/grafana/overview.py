"""The dashboard to begin with: is it well, what comes in, what goes wrong, what does it cost."""

from __future__ import annotations

from deploy.grafana.panels import GREEN, ORANGE, POLICY, RED, TARGET, TEAM, Board, Panel
from deploy.grafana.promql import DUE, FAULTS, burn, per_hour, quantile, rate, rise, share, where

COST, LATENCY, ROUTING, TARGETS = (f"pointsman-{name}" for name in ("cost", "latency", "routing", "targets"))

_TOKENS = where("team", "target")
_OF = where("team", "target", "policy")
_DUE = where("team", "target", "policy", also=DUE)
_FAULTS = where("team", "target", "policy", also=FAULTS)
_BAD = share(rise("requests_total", _FAULTS), rise("requests_total", _DUE))
_SPENT, _BASE = rise("cost_usd_total", _TOKENS), rise("baseline_cost_usd_total", _TOKENS)

_WELL = (
    Panel(
        "Served",
        ((f"1 - ({_BAD})", ""),),
        "Share of the requests that ought to be served, in the chosen time, that were. What a client did wrong, "
        "limits and clients that left do not count. Promised are 99.5 %, unless objectives.yaml says otherwise. When "
        "it is lower: Errors by code below says whose fault it is.",
        unit="percentunit",
        kind="stat",
        width=4,
        height=5,
        steps=((None, RED), (0.99, ORANGE), (0.995, GREEN)),
    ),
    Panel(
        "Error budget left",
        (
            ("min(job:pointsman_slo_availability_budget_left:ratio30d)", "requests"),
            ("min(job:pointsman_slo_first_event_budget_left:ratio30d)", "first events"),
        ),
        "What is left of the failures, and of the streams that begin late, that 30 days may have; below zero the "
        "promise is broken. When it falls: stop changes, and look at How fast the error budget burns.",
        unit="percentunit",
        kind="stat",
        width=4,
        height=5,
        steps=((None, RED), (0.1, ORANGE), (0.5, GREEN)),
    ),
    Panel(
        "Alerts firing",
        (('count(ALERTS{alertstate="firing",alertname=~"Pointsman.+"}) or vector(0)', ""),),
        "Alerts of the rules in deploy/prometheus that fire now. The table Alerts below names them; each has a "
        "runbook.",
        kind="stat",
        width=4,
        height=5,
        steps=((None, GREEN), (1, RED)),
    ),
    Panel(
        "Targets held back",
        (('count(max by (target) (pointsman_target_state{state!="healthy"} == 1)) or vector(0)', ""),),
        "Targets that get no requests, or one to see whether they are back, because they failed, asked for time or "
        "refused the gateway's key. Fallbacks hide it from clients. Which ones, why and until when: the dashboard "
        "Targets.",
        kind="stat",
        width=4,
        height=5,
        steps=((None, GREEN), (1, ORANGE)),
        goes=TARGETS,
    ),
    Panel(
        "Cost an hour",
        ((per_hour("cost_usd_total", _OF), ""),),
        "US dollars an hour at the rate of the moment, by the prices in the configuration. When it jumps: the "
        "dashboard Cost says which team, rule and model, and whether it is more requests, longer ones or a dearer "
        "target.",
        unit="currencyUSD",
        kind="stat",
        width=4,
        height=5,
        goes=COST,
    ),
    Panel(
        "Saved",
        ((f"1 - {_SPENT} / ({_BASE} > 0)", ""),),
        "Share of the baseline's cost that routing saved in the chosen time; the baseline is `savings.baseline` of the "
        "configuration. Below zero routing costs more than always asking the baseline would.",
        unit="percentunit",
        kind="stat",
        width=4,
        height=5,
        steps=((None, RED), (0, GREEN)),
        goes=COST,
    ),
    Panel(
        "Requests",
        ((rate("requests_total", _OF), ""),),
        "Requests that ended, a second, refused ones among them. When it falls to nothing while clients complain, "
        "they do not reach the gateway: look at the load balancer and at /readyz.",
        unit="reqps",
        kind="stat",
        width=6,
        height=4,
    ),
    Panel(
        "First event, p95",
        ((quantile(0.95, "time_to_first_event_seconds", where("target")), ""),),
        "19 of 20 answers began within this. Whether it is the gateway or the target: the dashboard Latency.",
        unit="s",
        kind="stat",
        width=6,
        height=4,
        goes=LATENCY,
        exemplars=True,
    ),
    Panel(
        "The gateway's own share, p99",
        ((quantile(0.99, "gateway_overhead_seconds"), ""),),
        "What reading, admitting and deciding took of 99 in 100 requests. Above some milliseconds the process wants "
        "for CPU: see Processor below and add a replica.",
        unit="s",
        kind="stat",
        width=6,
        height=4,
        steps=((None, GREEN), (0.01, ORANGE), (0.05, RED)),
        goes=LATENCY,
    ),
    Panel(
        "Being served",
        (("sum(pointsman_inflight_requests)", ""),),
        "Requests under way now. When it climbs while Requests does not, answers take longer: the dashboard Latency.",
        kind="stat",
        width=6,
        height=4,
    ),
)

_TRAFFIC = (
    Panel(
        "By team",
        ((rate("requests_total", _OF, "team"), "{{team}}"),),
        "Requests a second by the team of the key; none: the key was not known. A team that jumps is the first "
        "suspect for a jump of cost.",
        unit="reqps",
        kind="stack",
    ),
    Panel(
        "By what was asked for",
        ((rate("requests_total", _OF, "model_asked"), "{{model_asked}}"),),
        "Requests a second by the `model` that clients sent; other: a name the configuration does not know. Many of "
        "those are a client that is set up wrongly.",
        unit="reqps",
        kind="stack",
    ),
    Panel(
        "Under way and waiting",
        (
            ("sum(pointsman_inflight_requests)", "under way"),
            ("sum(pointsman_queue_requests)", "waiting for a connection"),
        ),
        "Requests being served, and attempts that wait for a connection to their target. When some wait for longer "
        "than a moment, targets answer more slowly than requests come: Headroom in the dashboard Targets.",
        goes=TARGETS,
    ),
)

_ERRORS = (
    Panel(
        "Errors by code",
        (
            (
                rate("requests_total", where("team", "target", "policy", also='code!~"ok|client_gone"'), "code"),
                "{{code}}",
            ),
        ),
        "Requests a second that got an error. upstream_*: the targets and no other could help; no_target_available and "
        "overloaded: too little of them; invalid_api_key, bad_request and the like: clients.",
        unit="reqps",
        kind="stack",
        width=12,
        goes=ROUTING,
    ),
    Panel(
        "How fast the error budget burns",
        (
            (burn("5m"), "5 minutes"),
            (burn("1h"), "1 hour"),
            (burn("6h"), "6 hours"),
        ),
        "1 uses the budget up exactly in its 30 days, 14.4 a fiftieth of a month's in an hour, "
        "6 a twentieth in six hours. All requests count, whatever is chosen above. Over a dashed line somebody is "
        "woken.",
        kind="lines",
        width=12,
        steps=((None, GREEN), (6, ORANGE), (14.4, RED)),
    ),
    Panel(
        "Attempts that failed",
        (
            (
                rate("attempts_total", where("target", also='outcome!~"ok|outrun|client_gone"'), "target, outcome"),
                "{{target}}: {{outcome}}",
            ),
        ),
        "Attempts a second that failed at their target, by how; most are made good by another attempt. The target's "
        "name is where to look next: the dashboard Targets.",
        unit="reqps",
        width=12,
        goes=TARGETS,
    ),
    Panel(
        "Alerts",
        (('ALERTS{alertname=~"Pointsman.+"}', ""),),
        "Every alert that is pending or fires, with what it is about. Its runbook stands in docs/runbooks.",
        kind="table",
        width=12,
        hidden=("__name__", "job", "Value"),
    ),
)

_MONEY_ROW = (
    Panel(
        "Cost an hour by team",
        ((per_hour("cost_usd_total", _OF, "team"), "{{team}}"),),
        "US dollars an hour at the rate of the moment. Which rule and which model: the dashboard Cost.",
        unit="currencyUSD",
        kind="stack",
        goes=COST,
    ),
    Panel(
        "Cost an hour by model",
        ((per_hour("cost_usd_total", _OF, "model"), "{{model}}"),),
        "The same money by the model that answered. A dear model that appears here although policies do not mean it: "
        "Fallbacks in the dashboard Routing.",
        unit="currencyUSD",
        kind="stack",
        goes=COST,
    ),
    Panel(
        "Saved an hour",
        ((f"{per_hour('baseline_cost_usd_total', _TOKENS)} - {per_hour('cost_usd_total', _TOKENS)}", "saved"),),
        "US dollars an hour less than the same tokens would have cost at the baseline's price. Falling while traffic "
        "does not: a fallback to a dearer target, or a policy that changed.",
        unit="currencyUSD",
        goes=COST,
    ),
)

#: By process, whatever the scrape job is called.
_OURS = "* on (job, instance) group_left () pointsman_build_info"
_GATEWAY = (
    Panel(
        "Processor",
        ((f"rate(process_cpu_seconds_total[$__rate_interval]) {_OURS}", "{{instance}}"),),
        "CPUs that each gateway process uses. One process uses one at most: add replicas before it gets there.",
        width=6,
        height=6,
        steps=((None, GREEN), (0.7, ORANGE), (0.9, RED)),
    ),
    Panel(
        "Memory",
        (
            (f"process_resident_memory_bytes {_OURS}", "{{instance}}"),
            ("pointsman_memory_used_bytes", "{{instance}}: counted"),
            ("pointsman_memory_limit_bytes", "{{instance}}: limit"),
        ),
        "Memory of each gateway process, and what counts of it where there is a limit: from 85 % on new requests are "
        "refused. Steady growth without more requests is a fault worth a report.",
        unit="bytes",
        width=6,
        height=6,
    ),
    Panel(
        "Reloads",
        (
            ("sum by (result) (increase(pointsman_config_reload_total[$__rate_interval]))", "{{result}}"),
            ("1 - min(pointsman_config_last_reload_success)", "the last one was rejected"),
        ),
        "Changes of the configuration. A rejected one leaves the configuration before it in service; the log and "
        "the admin listener's /readyz say what is wrong, by file and line.",
        width=6,
        height=6,
    ),
    Panel(
        "Missing from what is told",
        (
            (rate("decision_records_total", 'result="lost"'), "decision records"),
            (rate("log_lines_total", 'result!="written"', "log, result"), "log of {{log}}: {{result}}"),
            (rate("otlp_dropped_total", "", "signal, reason"), "OTLP {{signal}}: {{reason}}"),
            (rate("otlp_dropped_requests_total"), "OTLP requests"),
        ),
        "Decision records, log lines and spans a second that were left out or lost. Left out under load is meant to "
        "be; lost ones are missing from `pointsman savings`, searches and traces: the disk, the pipe or the "
        "collector is too slow.",
        unit="reqps",
        width=6,
        height=6,
    ),
    Panel(
        "How full",
        (
            ("max by (resource) (pointsman_load)", "{{resource}}"),
            ("max(pointsman_memory_used_bytes / pointsman_memory_limit_bytes)", "memory"),
        ),
        "The fullest process, as a share of what it may have: `max_inflight`, `max_connections` and memory. From the "
        "shares in `limits.shed` on it closes connections after their answers, then refuses requests by priority, "
        "lowest first. When it climbs: add a replica.",
        unit="percentunit",
        height=6,
        steps=((None, GREEN), (0.7, ORANGE), (0.85, RED)),
    ),
    Panel(
        "Refused because it was full",
        (
            (
                "sum by (reason, priority) (rate(pointsman_shed_total[$__rate_interval])) > 0 "
                "or sum(rate(pointsman_shed_total[$__rate_interval])) * 0",
                "{{reason}}: {{priority}}",
            ),
        ),
        "A second, by why and by the priority of the key. idle: connections that nobody used and that made room. "
        "Refusals of normal and up mean that replicas are missing.",
        unit="reqps",
        height=6,
    ),
    Panel(
        "Connections",
        (("sum(pointsman_client_connections)", "clients"),),
        "Connections of clients that are open now, idle ones among them. Above `max_connections` of a process the "
        "longest idle make room for new ones.",
        height=6,
    ),
    Panel(
        "What serves",
        (
            (
                "1000 * pointsman_config_last_reload_timestamp_seconds "
                "* on (job, instance) group_left (version, python) pointsman_build_info",
                "",
            ),
        ),
        "Each gateway process: its version, its interpreter's, and since when it serves its configuration. Several "
        "versions are a rollout under way; one that was loaded before the others has not been reloaded.",
        kind="table",
        width=12,
        height=6,
        columns=(("Configuration loaded", "dateTimeFromNow"),),
        hidden=("job",),
    ),
    Panel(
        "Policies",
        (("pointsman_policy_info", ""),),
        "The policies being served and the digest of each. Different digests of one policy are replicas that have "
        "not all been reloaded.",
        kind="table",
        width=12,
        height=6,
        hidden=("__name__", "job", "Value"),
    ),
)

BOARD = Board(
    "pointsman-overview",
    "Overview",
    "Is it well, what comes in, what goes wrong, what does it cost. docs/dashboards.md says where to look for what.",
    (TEAM, POLICY, TARGET),
    {
        "Is it well?": _WELL,
        "Traffic": _TRAFFIC,
        "Errors": _ERRORS,
        "Money": _MONEY_ROW,
        "The gateway": _GATEWAY,
    },
)
