"""The example rules and the dashboard speak of metrics that there are."""

import json
import re
from pathlib import Path

from wsp.counters import Counters, Histogram, add_to_stored
from wsp.database import Database
from wsp.web.metrics import COUNTERS, HISTOGRAMS, RequestCounts, render

DOCS = Path(__file__).parents[1] / "docs"
NAME = re.compile(r"\bwsp_[a-z_]+\b")


def shown_names(database: Database) -> set[str]:
    """The names of all samples, once everything has been counted."""
    counters, requests = Counters(), RequestCounts()
    for name in COUNTERS:
        counters.add(f"{name}_total")
    for name in HISTOGRAMS:
        counters.observe(Histogram(name, (1.0,)), 0.5)
    requests.count({"method": "GET", "path": "/"}, 200, 0.1, endless=False)
    with database.transaction() as session:
        add_to_stored(session, "web1", counters.take())
    lines = render(database, requests).decode().splitlines()
    return {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}


class TestTheExamples:
    def test_ask_for_metrics_that_there_are(self, database: Database) -> None:
        names = shown_names(database)
        dashboard = json.loads((DOCS / "monitoring/grafana-dashboard.json").read_text())
        asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        rules = (DOCS / "monitoring/alerts.yml").read_text()
        wanted = set(NAME.findall(" ".join([*asked, rules])))
        assert wanted
        assert wanted <= names

    def test_the_page_names_every_metric(self, database: Database) -> None:
        page = (DOCS / "metrics.md").read_text()
        for name in shown_names(database):
            if name.startswith("wsp_"):
                assert re.sub(r"_(bucket|count|sum)$", "", name) in page
