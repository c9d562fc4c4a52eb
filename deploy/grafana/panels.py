"""What a panel and a dashboard are here, and how they become Grafana's JSON by its Foundation SDK.

The dashboards are tables of `Panel`s in the modules beside this one; everything that is the same for all of them is
here: the data source, links between them, annotations of reloads, colours, legends. What they ask is in no way known
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import bargauge, common, dashboard, heatmap, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common as model
from grafana_foundation_sdk.models import dashboard as board
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.promql import FINEST, POINTS, STEP

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "pointsman"

#: Colours of values from good to bad.
GREEN, YELLOW, ORANGE, RED, GREY = "green", "yellow", "orange", "red", "#8e8e8e"
#: (from this value on, colour), the first without a value. Also the lines drawn into graphs.
Steps = tuple[tuple[float | None, str], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    `asks` are (PromQL, legend); `says` what it shows and what to do when it is bad, for who reads the (i). `kind` is
    how it is drawn: lines, stack (areas upon each other), stat, bars, table, heat or states. In a table, `columns`
    gives the value of each question a heading and a unit, and `hidden` names labels that are left out; `goes` is the
    uid of a dashboard with more of it. `exemplars` marks single requests on it, with their ids.
    """

    title: str
    asks: tuple[tuple[str, str], ...]
    says: str
    unit: str = "short"
    kind: str = "lines"
    width: int = 8
    height: int = 8
    steps: Steps = ()
    columns: tuple[tuple[str, str], ...] = ()
    hidden: tuple[str, ...] = ()
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # value: (text, colour)
    goes: str = ""
    exemplars: bool = False
    most: float | None = None


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top: the values of a label, several at once or all."""

    name: str
    label: str
    query: str


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard: rows of panels by their heading, from `since` until now."""

    uid: str
    title: str
    says: str
    variables: tuple[Variable, ...]
    rows: Mapping[str, tuple[Panel, ...]]
    since: str = "now-6h"


TEAM = Variable("team", "Team", "label_values(pointsman_requests_total, team)")
POLICY = Variable("policy", "Policy", "label_values(pointsman_decisions_total, policy)")
TARGET = Variable("target", "Target", "label_values(pointsman_target_info, target)")


def build(one: Board) -> board.Dashboard:
    """The dashboard as the SDK's object, which its encoder writes as JSON."""
    made = (
        dashboard.Dashboard(f"Pointsman / {one.title}")
        .uid(one.uid)
        .description(one.says)
        .tags([TAG])
        .refresh("30s")
        .time(one.since, "now")
        .tooltip(board.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Pointsman")
            .type(board.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable in one.variables:
        made = made.with_variable(_variable(variable))
    for reload in _reloads():
        made = made.annotation(reload)
    number = 0
    for title, row in one.rows.items():
        number += 1
        made = made.with_row(dashboard.Row(title).id(number))
        for panel in row:
            number += 1
            made = made.with_panel(_panel(panel).id(number))
    return made.build()


def _variable(one: Variable) -> dashboard.QueryVariable:
    everything = board.VariableOption(selected=True, text=["All"], value=["$__all"])
    return (
        dashboard.QueryVariable(one.name)
        .label(one.label)
        .datasource(SOURCE)
        .query({"qryType": 1, "query": one.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
        .definition(one.query)
        .refresh(board.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(board.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(everything)
    )


def _reloads() -> list[dashboard.AnnotationQuery]:
    """Marks where the configuration changed, and where a new one was rejected."""
    return [
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(colour)
        .expr(f'sum by (instance) (increase(pointsman_config_reload_total{{result="{result}"}}[$__rate_interval])) > 0')
        .title_format(title)
        .text_format("{{instance}}")
        .step("60s")
        for name, result, colour, title in (
            ("Reloads", "ok", "blue", "Configuration reloaded"),
            ("Rejected reloads", "rejected", RED, "Reload rejected: the configuration before it still serves"),
        )
    ]


def _panel(panel: Panel) -> Any:
    made = (
        (_KINDS[panel.kind](panel).title(panel.title).description(panel.says).datasource(SOURCE).unit(panel.unit))
        .span(panel.width)
        .height(panel.height)
    )
    for number, (query, legend) in enumerate(panel.asks):
        made = made.with_target(_ask(panel, chr(ord("A") + number), query, legend))
    if any(STEP in query for query, _ in panel.asks):
        made = made.interval(FINEST).max_data_points(POINTS)
    if panel.steps:
        steps = [board.Threshold(value=value, color=colour) for value, colour in panel.steps]
        made = made.thresholds(dashboard.ThresholdsConfig().mode(board.ThresholdsMode.ABSOLUTE).steps(steps))
    if panel.words:
        words = {
            value: board.ValueMappingResult(text=text, color=colour, index=place)
            for place, (value, (text, colour)) in enumerate(panel.words.items())
        }
        made = made.mappings([board.ValueMap(options=words)])
    if panel.most is not None:
        made = made.max(panel.most)
    if panel.goes:
        url = f"/d/{panel.goes}?${{__url_time_range}}&${{__all_variables}}"
        made = made.links([dashboard.DashboardLink("More of this").type(board.DashboardLinkType.LINK).url(url)])
    return made


def _ask(panel: Panel, name: str, query: str, legend: str) -> Dataquery:
    made = Dataquery().ref_id(name).datasource(SOURCE).expr(query).legend_format(legend or "__auto")
    if panel.kind in ("table", "bars"):
        made = made.instant()
        return made.format(PromQueryFormat.TABLE) if panel.kind == "table" else made
    if panel.kind == "stat" and "$__range" in query:
        return made.instant()
    if panel.kind == "heat":
        made = made.format(PromQueryFormat.HEATMAP)
    return made.range().exemplar(panel.exemplars)


def _lines(panel: Panel) -> Any:
    stacked = panel.kind == "stack"
    made = (
        timeseries.Panel()
        .legend(
            common.VizLegendOptions()
            .display_mode(model.LegendDisplayMode.LIST)
            .placement(model.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(model.TooltipDisplayMode.MULTI).sort(model.SortOrder.DESCENDING))
        .line_width(1)
        .fill_opacity(25 if stacked else 5)
        .show_points(model.VisibilityMode.NEVER)
        .axis_soft_min(0)
    )
    if stacked:
        made = made.stacking(common.StackingConfig().mode(model.StackingMode.NORMAL).group("A"))
    if panel.steps:
        made = made.thresholds_style(common.GraphThresholdsStyleConfig().mode(model.GraphThresholdsStyleMode.DASHED))
    return made


def _stat(panel: Panel) -> Any:
    return (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .graph_mode(model.BigValueGraphMode.AREA)
        .color_mode(model.BigValueColorMode.VALUE if panel.steps else model.BigValueColorMode.NONE)
    )


def _bars(_: Panel) -> Any:
    return (
        bargauge.Panel()
        .orientation(model.VizOrientation.HORIZONTAL)
        .display_mode(model.BarGaugeDisplayMode.BASIC)
        .value_mode(model.BarGaugeValueMode.TEXT)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .min(0)
    )


def _table(panel: Panel) -> Any:
    """One row for each set of labels; the values of several questions stand beside each other."""
    made = table.Panel().show_header(True).filterable(True)
    names = ["Value"] if len(panel.asks) == 1 else [f"Value #{chr(ord('A') + n)}" for n in range(len(panel.asks))]
    shown = dict(zip(names, panel.columns, strict=False))
    hidden = {"Time": True, **dict.fromkeys(panel.hidden, True), **{name: True for name in names if name not in shown}}
    if len(panel.asks) > 1:
        made = made.with_transformation(board.DataTransformerConfig(id_val="merge", options={}))
    renamed = {name: heading for name, (heading, _) in shown.items()}
    made = made.with_transformation(
        board.DataTransformerConfig(id_val="organize", options={"excludeByName": hidden, "renameByName": renamed})
    )
    for heading, unit in panel.columns:
        made = made.override_by_name(heading, [board.DynamicConfigValue(id_val="unit", value=unit)])
    if panel.columns:
        first = panel.columns[0][0]
        made = made.sort_by([common.TableSortByFieldState().display_name(first).desc(True)])
    return made


def _heat(panel: Panel) -> Any:
    colours = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").fill("dark-orange")
    return (
        heatmap.Panel()
        .calculate(False)
        .color(colours.scale(HeatmapColorScale.EXPONENTIAL).exponent(0.5).steps(64))
        .y_axis(heatmap.YAxisConfig().unit(panel.unit))
        .cell_gap(1)
        .show_legend()
        .exemplars_color("rgba(50,50,50,0.7)")
    )


def _states(_: Panel) -> Any:
    return statetimeline.Panel().merge_values(True).show_value(model.VisibilityMode.NEVER).row_height(0.8)


_KINDS: dict[str, Callable[[Panel], Any]] = {
    "lines": _lines,
    "stack": _lines,
    "stat": _stat,
    "bars": _bars,
    "table": _table,
    "heat": _heat,
    "states": _states,
}
