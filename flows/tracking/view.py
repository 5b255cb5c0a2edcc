"""The curated comparison of the runs, as MLflow stores a view of an experiment that is shared by a link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]
VIEW = "compare"
"""Name of the curated comparison."""
SHOWN = "tags.comparison = 'current' and attributes.status != 'FAILED' and attributes.status != 'KILLED'"
PARALLEL = (
    "processor_seconds",
    "state_bytes",
    "average_forgetting",
    "average_accuracy",
)  # the last one colours the lines
COLUMNS = ("average_accuracy", "average_forgetting", "processor_seconds", "peak_memory_bytes", "state_bytes")


def curated(groups: Sequence[str]) -> Json:
    """The curated comparison, in the form in which MLflow 3.17 stores a view that its button "share view" shares.

    It groups the runs by these tags and shows means over seeds: which method keeps most, and at what cost.
    """

    def chart(kind: str, section: str, **settings: object) -> Json:
        name = f"{kind} {settings.get('metricKey', section)}"
        common = {"uuid": name, "metricSectionId": section, "deleted": False, "isGenerated": False}
        return {"type": kind, "runsCountToCompare": 100, **common, **settings}

    def axis(metric: str) -> Json:
        return {"key": metric, "type": "METRIC"}

    which, cost = "Which method", "At what cost"
    return {
        "searchFilter": SHOWN,
        "orderByKey": "metrics.`average_accuracy`",
        "orderByAsc": False,
        "groupBy": {
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "tag", "groupByData": tag} for tag in groups],
        },
        "useGroupedValuesInCharts": True,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": [f"metrics.`{metric}`" for metric in COLUMNS],
        "isAccordionReordered": True,
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True} for name in (which, cost)
        ],
        "compareRunCharts": [
            chart("LINE", which, metricKey="average_accuracy", selectedMetricKeys=["average_accuracy"]),
            chart("BAR", which, metricKey="average_accuracy"),
            chart("BAR", which, metricKey="average_forgetting"),
            chart("PARALLEL", which, selectedParams=[], selectedMetrics=list(PARALLEL), showAllRuns=False),
            chart("SCATTER", cost, xaxis=axis("processor_seconds"), yaxis=axis("average_accuracy")),
            chart("BAR", cost, metricKey="processor_seconds"),
            chart("BAR", cost, metricKey="state_bytes"),
        ],
    }
