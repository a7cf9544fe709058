"""What is under `deploy/` for Prometheus and Grafana fits what /metrics tells and what the handbook says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families
from support.builders import accept, attempt, change, decide, end, just_now, new_runtime
from support.callers import open_api
from support.prometheus import Programs

from chargeapp.clock import utcnow
from chargeapp.storage import heartbeats
from chargeapp.web import metrics

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
CONFIGURATIONS = [PROMETHEUS / "prometheus.yml", ROOT / "deploy" / "docker" / "prometheus.yml"]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "chargeapp.json").read_text())
RULES = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]
ALERTS = [rule["alert"] for rule in RULES]
PANELS = DASHBOARD["panels"]
COLUMNS = 24


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """/metrics as Prometheus gets it, where each part of chargeapp has run."""
    with new_runtime(tmp_path_factory.mktemp("exposed")) as runtime, pytest.MonkeyPatch.context() as patch:
        # As where Kafka carries the jobs, and Redis counts for rate limits.
        patch.setattr(metrics, "server_troubles", lambda _: {"redis": "", "kafka": ""})
        patch.setattr(metrics, "_lag", lambda *_: {"callbacks": 7})
        accept(runtime.database, now=just_now())
        decide(runtime.database, now=utcnow())
        attempt(runtime.database, now=utcnow())
        end(runtime.database, utcnow())
        change(runtime.database, lambda session: heartbeats.beat(session, "relay", utcnow()))
        yield open_api(runtime).get("/metrics?format=prometheus").get_data(as_text=True)


@pytest.fixture(scope="module")
def labels(exposed: str) -> dict[str, set[str]]:
    """Each exposed name with its labels."""
    samples = [each for family in text_string_to_metric_families(exposed) for each in family.samples]
    return {each.name: set(each.labels) for each in samples}


def expressions() -> list[str]:
    shown = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return [*shown, *(each["expr"] for each in DASHBOARD["annotations"]["list"])]


def names(text: str) -> set[str]:
    return set(re.findall(r"\bchargeapp_[a-z0-9_]+", text))


def test_promtool_finds_nothing_to_mend_in_what_metrics_tells(programs: Programs, exposed: str) -> None:
    programs.check("check", "metrics", given=exposed)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.parent.name)
def test_promtool_accepts_the_configuration_and_the_alerts(programs: Programs, tmp_path: Path, path: Path) -> None:
    configuration = path.read_text().replace("/run/secrets/prometheus.key", "chargeapp.key")
    (tmp_path / "prometheus.yml").write_text(configuration)
    (tmp_path / "alerts.yml").write_text((PROMETHEUS / "alerts.yml").read_text())
    (tmp_path / "chargeapp.key").write_text("a-key")

    assert f"{len(ALERTS)} rules found" in programs.check("check", "config", "prometheus.yml", cwd=tmp_path)


def test_each_alert_fires_when_it_should_and_none_where_all_is_well(programs: Programs) -> None:
    programs.check("test", "rules", "alerts_test.yml", cwd=PROMETHEUS)


def test_each_alert_has_such_a_test() -> None:
    tested = re.findall(r'alertname="(\w+)"', (PROMETHEUS / "alerts_test.yml").read_text())

    assert set(tested) == set(ALERTS)
    assert len(ALERTS) == len(set(ALERTS))


@pytest.mark.parametrize("rule", RULES, ids=ALERTS)
def test_an_alert_says_what_to_do_and_where_to_read_on(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")

    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}
    assert rule["annotations"]["summary"]
    assert len(rule["annotations"]["description"]) > 50
    assert rule["labels"]["severity"] in ("critical", "warning")


def test_alerts_and_dashboard_use_only_figures_that_exist(labels: dict[str, set[str]]) -> None:
    used = names(" ".join([*expressions(), *(rule["expr"] for rule in RULES)]))

    assert used
    assert used <= set(labels)


def test_every_figure_is_on_the_dashboard(labels: dict[str, set[str]]) -> None:
    created = {name for name in labels if name.endswith("_created")}

    assert set(labels) - created <= names(" ".join(expressions()))


def test_the_dashboard_asks_for_labels_that_the_figures_have(labels: dict[str, set[str]]) -> None:
    known = {"instance", "job"}.union(*labels.values())

    grouped = re.findall(r"(?:by|without) \(([^)]+)\)", " ".join(expressions()))
    legends = re.findall(r"{{(\w+)}}", json.dumps(PANELS))
    assert set(", ".join(grouped).split(", ")) | set(legends) <= known


def test_prometheus_understands_every_expression_of_the_dashboard(programs: Programs, tmp_path: Path) -> None:
    """As Grafana sends them: its variables replaced."""
    sent = [each.replace("$__rate_interval", "1m").replace("$instance", ".*") for each in expressions()]
    rules = [{"record": f"expression:{number}", "expr": each} for number, each in enumerate(sent)]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    assert not any("$" in each for each in sent)
    assert f"{len(rules)} rules found" in programs.check("check", "rules", str(file))


def test_grafana_can_import_the_dashboard() -> None:
    """What its import asks for. Grafana itself is in no Debian package, so it is not run here."""
    assert DASHBOARD["title"]
    assert DASHBOARD["uid"]
    assert isinstance(DASHBOARD["schemaVersion"], int)
    assert "id" not in DASHBOARD
    numbers = [panel["id"] for panel in PANELS]
    assert len(numbers) == len(set(numbers))
    assert {panel["type"] for panel in PANELS} <= {"stat", "timeseries"}
    for panel in PANELS:
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        assert panel["title"]


def test_grafana_knows_every_word_of_the_dashboard() -> None:
    # Annotations are typed for all data sources together; these belong to Prometheus.
    own = {f"/annotations/list/0/{name}" for name in ("titleFormat", "textFormat", "step")}
    assert changed(DASHBOARD, as_grafana_reads(DASHBOARD)) == own


def as_grafana_reads(dashboard: dict[str, Any]) -> Any:
    """By way of its published types, which drop what they do not know. They do not check values."""
    register_default_plugins()
    return json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(dashboard)))


def changed(written: Any, read: Any, at: str = "") -> set[str]:
    """Where something written was lost or is another thing now."""
    if isinstance(written, dict) and isinstance(read, dict):
        return {each for name, value in written.items() for each in changed(value, read.get(name), f"{at}/{name}")}
    if isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        pairs = enumerate(zip(written, read, strict=True))
        return {each for number, pair in pairs for each in changed(*pair, f"{at}/{number}")}
    return set() if written == read else {at}


def test_a_word_that_grafana_does_not_know_would_be_noticed() -> None:
    wrong = json.loads(json.dumps(DASHBOARD))
    panel = next(each for each in wrong["panels"] if each["type"] == "timeseries")
    panel["fieldConfig"]["defaults"]["custom"]["lineWith"] = 2

    lost = changed(wrong, as_grafana_reads(wrong)) - changed(DASHBOARD, as_grafana_reads(DASHBOARD))

    assert [each.rpartition("/")[2] for each in lost] == ["lineWith"]


def test_the_dashboard_lets_the_reader_choose_the_data_source() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    sources = [panel["datasource"] for panel in PANELS]
    sources += [target["datasource"] for panel in PANELS for target in panel["targets"]]

    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert all(each == {"type": "prometheus", "uid": "${datasource}"} for each in sources)


def test_panels_lie_beside_each_other_and_never_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < COLUMNS
        taken |= cells


def test_every_figure_is_explained_and_no_other(labels: dict[str, set[str]]) -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()

    assert names(page) == {name for name in labels if not name.endswith("_created")}
