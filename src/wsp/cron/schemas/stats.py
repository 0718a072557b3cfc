"""The answer about how a job has been doing."""

from typing import Annotated, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, Field

from wsp.cron.history.stats import Figures, Stats, percentile
from wsp.cron.models import KILLED, LOST, SKIPPED, SUCCEEDED, TIMED_OUT, JobRun
from wsp.rest.fields import Timestamp, rfc3339

Share = Annotated[
    float | None,
    Field(
        description="Succeeded, of those that were started and are over; null when there are none", examples=[0.9857]
    ),
]


class Spread(BaseModel):
    """How figures are spread, in milliseconds; null when there are none."""

    p50: Annotated[int | None, Field(examples=[1843])]
    p95: Annotated[int | None, Field(examples=[2412])]
    max: Annotated[int | None, Field(examples=[8120])]

    @classmethod
    def of(cls, values: list[int]) -> Self:
        """The spread of some milliseconds."""
        return cls(p50=percentile(values, 50), p95=percentile(values, 95), max=percentile(values, 100))


class Outcomes(BaseModel):
    """How many runs there were, by how they ended."""

    runs: Annotated[int, Field(description="Runs that are over, skipped ones included", examples=[70])]
    succeeded: Annotated[int, Field(examples=[69])]
    failed: Annotated[
        int, Field(description="All others that were started, or should have been and could not", examples=[1])
    ]
    timed_out: Annotated[int, Field(description="Of the failed ones: took too long", examples=[1])]
    killed: Annotated[int, Field(description="Of the failed ones: ended by somebody", examples=[0])]
    lost: Annotated[int, Field(description="Of the failed ones: nobody saw their end", examples=[0])]
    skipped: Annotated[int, Field(examples=[0])]
    success_rate: Share

    @staticmethod
    def counted(figures: Figures) -> dict[str, int | float | None]:
        """The values of these fields."""
        return {
            "runs": figures.outcomes.total(),
            "succeeded": figures.outcomes[SUCCEEDED],
            "failed": figures.failed,
            "timed_out": figures.outcomes[TIMED_OUT],
            "killed": figures.outcomes[KILLED],
            "lost": figures.outcomes[LOST],
            "skipped": figures.outcomes[SKIPPED],
            "success_rate": figures.success_rate,
        }


class Day(Outcomes):
    """The runs of one day."""

    date: Annotated[str, Field(examples=["2026-05-18"])]
    duration_ms: Spread


class FailedRun(BaseModel):
    """A run that did not end well."""

    run_id: Annotated[int, Field(examples=[17])]
    status: Annotated[str, Field(examples=["timed_out"])]
    scheduled_for: Timestamp
    finished_at: Timestamp | None
    exit_code: Annotated[int | None, Field(examples=[143])]
    reason: Annotated[str, Field(examples=["It took longer than 60 s"])]

    @classmethod
    def of(cls, run: JobRun, zone: ZoneInfo) -> Self:
        """The run as the answer shows it."""
        return cls(
            run_id=run.id,
            status=run.status,
            scheduled_for=rfc3339(run.scheduled_for, zone),
            finished_at=rfc3339(run.finished_at, zone) if run.finished_at else None,
            exit_code=run.exit_code,
            reason=run.reason,
        )


class JobStats(Outcomes):
    """How a job has been doing."""

    job_id: Annotated[int, Field(examples=[5])]
    timezone: Annotated[str, Field(description="Whose days they are", examples=["Europe/Berlin"])]
    since: Annotated[Timestamp, Field(description="Where the figures begin")]
    complete: Annotated[
        bool, Field(description="False when there were so many runs that only the newest were looked at")
    ]
    duration_ms: Annotated[Spread, Field(description="Of the runs that succeeded")]
    lateness_ms: Annotated[Spread, Field(description="From when a run was due to when its command started")]
    last_failures: Annotated[list[FailedRun], Field(description="The newest first, ten at most")]
    by_day: Annotated[list[Day], Field(description="The newest first; days without a run are left out")]

    @classmethod
    def of(cls, job_id: int, stats: Stats, zone: ZoneInfo, job_zone: ZoneInfo) -> Self:
        """The figures as the answer shows them: times in `zone`, days in `job_zone`."""
        return cls.model_validate(
            {
                "job_id": job_id,
                "timezone": job_zone.key,
                "since": rfc3339(stats.since, zone),
                "complete": stats.complete,
                **Outcomes.counted(stats.all),
                "duration_ms": Spread.of(stats.all.durations),
                "lateness_ms": Spread.of(stats.all.lateness),
                "last_failures": [FailedRun.of(run, zone) for run in stats.last_failures],
                "by_day": [
                    {
                        "date": day.isoformat(),
                        **Outcomes.counted(figures),
                        "duration_ms": Spread.of(figures.durations),
                    }
                    for day, figures in stats.by_day.items()
                ],
            }
        )
