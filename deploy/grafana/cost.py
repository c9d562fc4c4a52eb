"""The dashboard of money: who spent what and why, what routing saved, what budgets hold, what is not in the books."""

from __future__ import annotations

from deploy.grafana.panels import GREEN, ORANGE, POLICY, RED, TARGET, TEAM, YELLOW, Board, Panel
from deploy.grafana.promql import per_hour, rate, rise, share, top, where

_OF = where("team", "target")
_MONEY = where("team", "target", "policy")
_SPENT, _BASE = rise("cost_usd_total", _OF), rise("baseline_cost_usd_total", _OF)
_ANSWERED = where("team", "target", "policy", also='target!="none"')


def _saved(by: str) -> str:
    return f"{rise('baseline_cost_usd_total', _OF, by)} - {rise('cost_usd_total', _OF, by)}"


_TOTALS = (
    Panel(
        "Spent",
        ((rise("cost_usd_total", _MONEY), ""),),
        "US dollars in the chosen time, for the chosen teams, policies and targets. To see yesterday, choose it at "
        "the top right. It is right to some minutes at each end; `pointsman usage` is exact.",
        unit="currencyUSD",
        kind="stat",
        width=4,
        height=5,
    ),
    Panel(
        "The same on the baseline",
        ((_BASE, ""),),
        "What the same tokens would have cost at the price of `savings.baseline`. A different model would have "
        "needed other tokens for the same work, so it is a comparison of prices; `pointsman savings` compares with "
        "more care.",
        unit="currencyUSD",
        kind="stat",
        width=4,
        height=5,
    ),
    Panel(
        "Saved",
        ((f"{_BASE} - {_SPENT}", ""),),
        "The difference of the two, in US dollars. Negative: the policies send to dearer models than the baseline; "
        "Saved by rule says which rule does.",
        unit="currencyUSD",
        kind="stat",
        width=4,
        height=5,
        steps=((None, RED), (0, GREEN)),
    ),
    Panel(
        "Cost of a thousand requests",
        ((f"1000 * {_SPENT} / ({rise('requests_total', _ANSWERED)} > 0)", ""),),
        "US dollars for a thousand answered requests. When it grows: longer prompts or answers (Tokens of a request) "
        "or dearer targets (Cost of a million tokens).",
        unit="currencyUSD",
        kind="stat",
        width=4,
        height=5,
    ),
    Panel(
        "Without a price",
        ((share(rise("unpriced_requests_total", where("target")), rise("requests_total", _ANSWERED)), ""),),
        "Share of the requests whose target has no price: their cost is missing here. Give the target a `price`.",
        unit="percentunit",
        kind="stat",
        width=4,
        height=5,
        steps=((None, GREEN), (0.0001, ORANGE)),
    ),
    Panel(
        "Estimated",
        ((share(rise("estimated_usage_requests_total", where("target")), rise("requests_total", _ANSWERED)), ""),),
        "Share of the requests whose tokens the gateway estimated, because the server did not say them or the stream "
        "broke. More than a few percent: not in the books below says of which targets.",
        unit="percentunit",
        kind="stat",
        width=4,
        height=5,
        steps=((None, GREEN), (0.05, ORANGE), (0.2, RED)),
    ),
)

_WHO = (
    Panel(
        "Teams",
        (
            (rise("cost_usd_total", _MONEY, "team"), ""),
            (rise("requests_total", _ANSWERED, "team"), ""),
            (rise("tokens_total", where("team", "target", also='class=~"input|cached"'), "team"), ""),
            (rise("tokens_total", where("team", "target", also='class=~"output|reasoning"'), "team"), ""),
            (_saved("team"), ""),
        ),
        "What each team spent in the chosen time, on how many requests and tokens. Choose a team above and the whole "
        "dashboard is about it: the panels below then say why.",
        kind="table",
        width=24,
        columns=(
            ("Spent", "currencyUSD"),
            ("Requests", "short"),
            ("Tokens in", "short"),
            ("Tokens out", "short"),
            ("Saved", "currencyUSD"),
        ),
    ),
    Panel(
        "Spent by rule",
        ((top(rise("cost_usd_total", _MONEY, "rule")), "{{rule}}"),),
        "US dollars in the chosen time by the rule that decided, dearest first; pin: the client named a model or "
        "target itself. A rule that costs too much: read its `because`, and try another rung with `pointsman replay`.",
        unit="currencyUSD",
        kind="bars",
    ),
    Panel(
        "Spent by model",
        ((top(rise("cost_usd_total", _MONEY, "model")), "{{model}}"),),
        "US dollars in the chosen time by the model that answered. A dear one above the rule it is for: fallbacks, "
        "or pins.",
        unit="currencyUSD",
        kind="bars",
    ),
    Panel(
        "Spent by team and rule",
        ((top(rise("cost_usd_total", _MONEY, "team, rule")), "{{team}}: {{rule}}"),),
        "Which rule each team's money went through. One team far above the others in one rule: talk to it, or give "
        "its key a policy of its own.",
        unit="currencyUSD",
        kind="bars",
    ),
    Panel(
        "Cost an hour by team",
        ((per_hour("cost_usd_total", _MONEY, "team"), "{{team}}"),),
        "When it was spent. Each dashed mark is a reload of the configuration: a step right behind one is the change.",
        unit="currencyUSD",
        kind="stack",
    ),
    Panel(
        "Cost an hour by rule",
        ((per_hour("cost_usd_total", _MONEY, "rule"), "{{rule}}"),),
        "When each rule spent. A step without a reload is traffic that changed, one behind a reload is the policy "
        "that did.",
        unit="currencyUSD",
        kind="stack",
    ),
    Panel(
        "Cost an hour by target",
        ((per_hour("cost_usd_total", _MONEY, "target"), "{{target}}"),),
        "The same by target. A dear target that grows while another shrinks is a fallback: Fallbacks in the dashboard "
        "Routing.",
        unit="currencyUSD",
        kind="stack",
        goes="pointsman-routing",
    ),
)

_WHY = (
    Panel(
        "Requests an hour by team",
        ((per_hour("requests_total", _ANSWERED, "team"), "{{team}}"),),
        "Cost is requests, times tokens of a request, times the price of a token. This is the first: does the team "
        "ask more?",
        kind="stack",
    ),
    Panel(
        "Tokens of a request",
        (
            (
                f"{rate('tokens_total', _OF, 'class')} / on () group_left () ({rate('requests_total', _ANSWERED)} > 0)",
                "{{class}}",
            ),
        ),
        "The second: tokens of an average request by class. More input: longer prompts or conversations. More "
        "reasoning: thinking is on where it need not be. Less cached: prompts no longer begin alike, or move between "
        "targets.",
    ),
    Panel(
        "Cost of a million tokens",
        ((f"1e6 * {rate('cost_usd_total', _OF, 'model')} / ({rate('tokens_total', _OF, 'model')} > 0)", "{{model}}"),),
        "The third: US dollars for a million tokens of all classes, by model. It moves with the mix of input and "
        "output, with length tiers and with prices.",
        unit="currencyUSD",
    ),
)

#: Tokens by class, priced as each target prices them, and of a model's targets the cheapest.
_ELSEWHERE = (
    "min by (model) (sum by (target) (max by (target, class) (pointsman_target_token_price_usd) "
    f"* on (class) group_left () {rise('tokens_total', _OF, 'class')}) "
    "* on (target) group_left (model) max by (target, model) (pointsman_target_info))"
)
_ELSE = (
    Panel(
        "The same tokens on each model",
        ((rise("cost_usd_total", _OF), "as it was spent"), (f"sort({_ELSEWHERE})", "all on {{model}}")),
        "US dollars in the chosen time: what was spent, and what the same tokens would have cost on each model by "
        "the price of its cheapest target here, without length tiers. Another model needs other tokens for the same "
        "work, and may not be able to do it; tokens that cost nothing here are among them: `pointsman savings` and "
        "`pointsman replay` compare with more care.",
        unit="currencyUSD",
        kind="bars",
    ),
    Panel(
        "Saved by rule",
        ((top(_saved("rule")), "{{rule}}"),),
        "US dollars less than on the baseline in the chosen time, by rule. A negative one costs more than the "
        "baseline: its work must be worth that.",
        unit="currencyUSD",
        kind="bars",
    ),
    Panel(
        "Spent and the same on the baseline",
        (
            (per_hour("cost_usd_total", _OF), "spent"),
            (per_hour("baseline_cost_usd_total", _OF, "baseline"), "all on {{baseline}}"),
        ),
        "US dollars an hour. The distance is what routing saves; where the lines cross, it costs more than the "
        "baseline would. Which rule does: Saved by rule.",
        unit="currencyUSD",
    ),
)

_TEAM = where("team")
_LEFT = f"job_team_key_period:pointsman_budget_left_usd:min{{{_TEAM}}}"
_FALL = f"job_team_key_period:pointsman_budget_left_usd:fall{{{_TEAM}}}"
_KEY = "{{team}} {{key}}, {{period}}"
_BUDGETS = (
    Panel(
        "Budget left",
        (
            (
                f"sort(min by (team, key, period) (1 - job_team_key_period:pointsman_budget_spent:ratio{{{_TEAM}}}))",
                _KEY,
            ),
        ),
        "Share of each key's budget that is left in its period, least first. At zero a hard budget refuses with 429 "
        "budget_exceeded: raise it, or ask the team.",
        unit="percentunit",
        kind="bars",
        steps=((None, RED), (0.1, ORANGE), (0.25, YELLOW), (0.5, GREEN)),
        most=1,
    ),
    Panel(
        "Empty in",
        ((f"sort(min by (team, key, period) (job_team_key_period:pointsman_budget_left:seconds{{{_TEAM}}}))", _KEY),),
        "How long each budget lasts at its present pace; keys that spend nothing are left out. Less than what "
        "remains of its period: it will run out.",
        unit="s",
        kind="bars",
        steps=((None, RED), (3600, ORANGE), (86400, GREEN)),
    ),
    Panel(
        "Left when its period ends",
        (
            (
                f"min by (team, key, period) ({_LEFT} - ({_FALL} or 0 * {_LEFT}) "
                f"* job_team_key_period:pointsman_budget_period_left:seconds{{{_TEAM}}})",
                _KEY,
            ),
        ),
        "US dollars that will be left of each budget at the end of its period, if spending goes on at its "
        "present pace. Below zero it will have run out before: raise it, or move work to a cheaper rule.",
        unit="currencyUSD",
        steps=((None, RED), (0, GREEN)),
    ),
)

_BOOKS = (
    Panel(
        "Not in the books",
        (
            (f"{rate('unpriced_requests_total', where('target'), 'target')} > 0", "{{target}}: no price"),
            (f"{rate('estimated_usage_requests_total', where('target'), 'target')} > 0", "{{target}}: estimated"),
        ),
        "Requests a second whose cost is missing, or rests on an estimate, by target. No price: give the target one.",
        unit="reqps",
    ),
    Panel(
        "Shadows",
        ((per_hour("shadow_cost_usd_total", where("target"), "shadow, target"), "{{shadow}}: {{target}}"),),
        "US dollars an hour for copies of requests to a second target. No team pays them, and no other panel has them. "
        "When it is too much: a smaller `share` in the policy.",
        unit="currencyUSD",
    ),
    Panel(
        "Ledger",
        (
            ("max(pointsman_ledger_lag_seconds)", "seconds behind"),
            ("max(pointsman_ledger_pending_entries)", "entries waiting"),
            (rate("ledger_errors_total", "", "op"), "errors a second: {{op}}"),
            ("1 - min(pointsman_ledger_up)", "cannot be written"),
        ),
        "How far the ledger is behind what was served. Nothing is lost while it is behind: the journal holds it. "
        "When it stays behind: the disk is full or slow.",
    ),
    Panel(
        "Shipping to PostgreSQL",
        (
            ("max(pointsman_ledger_shipping_lag_seconds)", "seconds behind"),
            ("sum(pointsman_ledger_unshipped_entries)", "entries waiting"),
            (rate("ledger_shipped_entries_total", "", ""), "shipped a second"),
            (rate("ledger_shipping_errors_total", "", "reason"), "errors a second: {{reason}}"),
        ),
        "How far the books of all replicas are behind each replica's own, which lose nothing. When it stays behind: "
        "the log says why, once.",
    ),
    Panel(
        "Shared store",
        (
            ("1 - min by (store) (pointsman_store_up)", "away: {{store}}"),
            (rate("store_errors_total", "", "store, op"), "errors a second: {{store}} {{op}}"),
            (
                "max by (store) (abs(pointsman_store_clock_offset_seconds))",
                "seconds by which a gateway's clock is off: {{store}}",
            ),
        ),
        "The Valkey or Redis in which replicas keep limits and budgets together; empty where each keeps its own. While "
        "it is away each replica keeps its part of every limit, and hard budgets spend what is leased to them. When "
        "it stays away: the runbook PointsmanStoreDegraded. Periods of budgets go by its clock: a gateway whose own "
        "is off says so in its log.",
    ),
)

BOARD = Board(
    "pointsman-cost",
    "Cost",
    "Who spent what and why, what routing saved, what budgets hold, what is not in the books.",
    (TEAM, POLICY, TARGET),
    {
        "In the chosen time": _TOTALS,
        "Who spent it": _WHO,
        "Why: requests, their size, their price": _WHY,
        "What it would have cost elsewhere": _ELSE,
        "Budgets": _BUDGETS,
        "What is not in these figures": _BOOKS,
    },
    since="now-24h",
)
