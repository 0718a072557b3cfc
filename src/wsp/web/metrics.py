"""`/metrics`: what Prometheus asks for, of the whole server.

Requests are counted in this process. What FTP and cron count lies in the store, since they are other processes, on
other machines perhaps; what is now (sessions, runs, bans) is looked up.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import accumulate
from typing import TYPE_CHECKING

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.types import Scope

from wsp import __version__
from wsp.auth.dependencies import authenticate
from wsp.counters import labels_of, stored
from wsp.cron.models import OPEN, QUEUED, JobRun, Notice
from wsp.cron.notices.outbox import IS_PENDING
from wsp.cron.planning.rows import is_open
from wsp.database import Database, utc_now
from wsp.errors import Forbidden
from wsp.ftp import guests
from wsp.ftp.records import SessionRow
from wsp.heartbeat import STALE_SECONDS, ServiceRow
from wsp.rest.answers import failures
from wsp.rest.routing import Router
from wsp.rest.state import get_state
from wsp.webhooks.models import Delivery
from wsp.webhooks.service import PENDING

if TYPE_CHECKING:
    from prometheus_client import Metric

ADMINS_ONLY = "Only an admin may see the metrics"

AREAS = ("ftp", "cronjobs", "webhooks", "users", "auth")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
REQUEST_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
INFINITE = float("inf")

COUNTERS = {
    "ftp_transfers": "Transfers that ended",
    "ftp_transfer_bytes": "Bytes of transfers that ended",
    "ftp_logins_refused": "Logins to accounts that were refused",
    "cron_runs": "Runs by how they ended",
    "cron_mails": "Mails about runs and jobs by what became of them",
}
HISTOGRAMS = {
    "cron_start_lateness_seconds": "From when a tick was due to when its command started",
    "cron_run_duration_seconds": "How long commands ran",
}
"""What other processes count, by its name without `wsp_` and `_total`."""

EXAMPLE = """\
# HELP wsp_cron_runs_total Runs by how they ended
# TYPE wsp_cron_runs_total counter
wsp_cron_runs_total{node="web1",status="succeeded",trigger="schedule"} 1843.0
"""

router = Router(tags=["Health"])


class RequestCounts:
    """Counts the requests of this process. Lives on its event loop."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, int], int] = defaultdict(int)
        self.buckets = [0] * (len(REQUEST_SECONDS) + 1)
        self.seconds = 0.0

    def count(self, scope: Scope, status: int, seconds: float, *, endless: bool) -> None:
        """Count a request that is over. `endless`: it was a stream, and its length says nothing."""
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.counts[method, area_of(scope["path"]), status] += 1
        if not endless:
            self.buckets[bisect_left(REQUEST_SECONDS, seconds)] += 1
            self.seconds += seconds


def area_of(path: str) -> str:
    """The part of the API that a path belongs to: one of a few, whatever strangers ask for."""
    parts = path.split("/", 4)
    if len(parts) > 3 and parts[1:3] == ["api", "v1"] and parts[3] in AREAS:
        return parts[3]
    return "other"


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Show figures for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus' text format",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": EXAMPLE}},
        },
        **failures(only=(401, 403, 429, 500, 503)),
    },
)
async def metrics(request: Request) -> Response:
    """Figures of the API, FTP and cron. For admins' keys, unless `WSP_METRICS_PUBLIC` opens it to everybody."""
    state = get_state(request)
    if not state.settings.metrics_public and not (await authenticate(request)).is_admin:
        raise Forbidden(ADMINS_ONLY)
    body = await run_in_threadpool(render, state.database, request.app.state.requests)
    return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")


def render(database: Database, requests: RequestCounts) -> bytes:
    """Everything, in the text format. Raises SQLAlchemyError."""
    # Not with the other imports: a server that nobody asks for its metrics does without.
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    with database.reading() as session:
        families = [*_of_requests(requests), *_counted(session), *_now(session)]
    registry.register(_Collected(families))
    return generate_latest(registry)


class _Collected:
    """What a registry takes for a collector."""

    def __init__(self, families: "list[Metric]") -> None:
        self._families = families

    def collect(self) -> "list[Metric]":
        return self._families


def _family(name: str, text: str, kind: str) -> "Metric":
    from prometheus_client import Metric

    return Metric(f"wsp_{name}", text, kind)


def _of_requests(requests: RequestCounts) -> "Iterator[Metric]":
    family = _family("http_requests", "Requests that this process answered", "counter")
    for (method, area, status), count in sorted(requests.counts.copy().items()):
        labels = {"method": method, "area": area, "status": str(status)}
        family.add_sample("wsp_http_requests_total", labels, count)
    yield family
    family = _family("http_request_duration_seconds", "How long answers took; streams are left out", "histogram")
    buckets = dict(zip((*REQUEST_SECONDS, INFINITE), requests.buckets, strict=True))
    _add_histogram(family, {}, buckets, requests.seconds)
    yield family


def _counted(session: Session) -> "Iterator[Metric]":
    """What the processes of FTP and cron have counted, on all machines."""
    families = {name: _family(name, text, "counter") for name, text in COUNTERS.items()}
    buckets: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    sums: dict[tuple[str, str], float] = {}
    for row in stored(session):
        labels = labels_of(row)
        if (name := row.name.removesuffix("_total")) in families:
            families[name].add_sample(f"wsp_{row.name}", {"node": row.node, **labels}, row.value)
        elif (name := row.name.removesuffix("_bucket")) in HISTOGRAMS:
            buckets[name, row.node][float(labels["le"])] = row.value
        elif (name := row.name.removesuffix("_sum")) in HISTOGRAMS:
            sums[name, row.node] = row.value
    yield from families.values()
    for name, text in HISTOGRAMS.items():
        family = _family(name, text, "histogram")
        for (of, node), counts in buckets.items():
            if of == name:
                _add_histogram(family, {"node": node}, {INFINITE: 0.0, **counts}, sums.get((of, node), 0.0))
        yield family


def _add_histogram(family: "Metric", labels: dict[str, str], counts: Mapping[float, float], total: float) -> None:
    """Add the samples of a histogram, from the number of values in each bucket alone."""
    bounds = sorted(counts)
    cumulated = list(accumulate(counts[bound] for bound in bounds))
    for bound, count in zip(bounds, cumulated, strict=True):
        le = "+Inf" if bound == INFINITE else str(bound)
        family.add_sample(f"{family.name}_bucket", {**labels, "le": le}, count)
    family.add_sample(f"{family.name}_count", labels, cumulated[-1])
    family.add_sample(f"{family.name}_sum", labels, total)


def _now(session: Session) -> "Iterator[Metric]":
    """How things are at the moment, as far as the store knows."""
    now = utc_now()
    family = _family("info", "The version of the API process", "gauge")
    family.add_sample("wsp_info", {"version": __version__}, 1)
    yield family

    since = now - timedelta(seconds=STALE_SECONDS)
    processes = select(ServiceRow.kind, func.count()).where(ServiceRow.heartbeat_at > since).group_by(ServiceRow.kind)
    services = dict.fromkeys(("api", "ftp", "cron"), 0) | dict(session.execute(processes).all())
    yield _gauge("service_processes", "Processes that report themselves", "service", services)

    has_tls = SessionRow.tls != ""
    sessions = (
        select(has_tls, func.count())
        .join(ServiceRow, ServiceRow.id == SessionRow.service_id)
        .where(ServiceRow.heartbeat_at > since)
        .group_by(has_tls)
    )
    by_tls = dict(session.execute(sessions).all())
    yield _gauge(
        "ftp_sessions",
        "FTP sessions that are logged in",
        "tls",
        {"true": by_tls.get(True, 0), "false": by_tls.get(False, 0)},
    )
    yield _gauge("ftp_bans", "Addresses that are banned from FTP", "", {"": len(guests.bans_in_force(session, now))})

    # What is claimed for a moment to come is not waiting yet.
    due = (JobRun.start_at.is_(None)) | (JobRun.start_at <= now)
    of_runs = (
        select(JobRun.status, func.count(), func.min(JobRun.start_at)).where(is_open(), due).group_by(JobRun.status)
    )
    found = {status: (count, oldest) for status, count, oldest in session.execute(of_runs)}
    runs = {status: found.get(status, (0, None))[0] for status in OPEN}
    yield _gauge("cron_runs_open", "Runs that wait or run", "status", runs)
    oldest = found.get(QUEUED, (0, None))[1]
    waited = (now - oldest).total_seconds() if oldest else 0.0
    yield _gauge("cron_queue_oldest_seconds", "How long the run has waited that waits longest", "", {"": waited})

    unsent = select(func.count()).select_from(Notice).where(IS_PENDING)
    yield _gauge("cron_mails_pending", "Mails that are still to be sent", "", {"": session.scalar(unsent) or 0})
    undelivered = select(func.count()).where(Delivery.status == PENDING, Delivery.next_attempt_at.is_not(None))
    yield _gauge(
        "webhook_deliveries_pending",
        "Webhook events that are still to be sent",
        "",
        {"": session.scalar(undelivered) or 0},
    )


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> "Metric":
    family = _family(name, text, "gauge")
    for of, value in values.items():
        family.add_sample(f"wsp_{name}", {label: of} if label else {}, value)
    return family
