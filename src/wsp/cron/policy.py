"""How a job is to be run, beyond its command and its times. What is left at its default is stored nowhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Overlap = Literal["skip", "queue", "allow", "replace"]
Missed = Literal["skip", "run_once", "run_all"]
OnLost = Literal["fail", "retry"]
AlertOn = Literal["first_failure", "nth_failure", "recovery"]


@dataclass(frozen=True)
class Policy:
    """The policies of a job. Times are seconds; 0 stands for "no limit", or for the server's own setting."""

    overlap: Overlap = "skip"
    timeout_seconds: int = 0
    kill_grace_seconds: int = 10
    retries: int = 0
    retry_delay_seconds: int = 60
    retry_backoff: float = 2.0  # each further delay is so many times the one before
    missed: Missed = "run_once"
    start_deadline_seconds: int = 0
    jitter_seconds: int = 0
    on_lost: OnLost = "fail"
    max_output_bytes: int = 0
    keep_runs: int = 0
    keep_days: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()  # the names in `env` whose values are nobody's business
    working_dir: str = ""  # below the owner's home
    stdin: str = ""
    shell: str = ""
    memory_mb: int = 0
    cpu_seconds: int = 0
    max_processes: int = 0
    nice: int = 0
    alert_on: tuple[AlertOn, ...] = ()
    alert_every: int = 10  # which failures in a row `nth_failure` means: every 10th
    expect_every: int = 0
    grace_seconds: int = 0
    alert_duration_factor: float = 0.0

    @classmethod
    def of(cls, stored: Mapping[str, Any] | None) -> "Policy":
        """The policy that a job's column holds. Names that this version does not know are passed over."""
        if not stored:
            return DEFAULT
        values: dict[str, Any] = {name: value for name, value in stored.items() if name in _DEFAULTS}
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        return cls(**values)

    def stored(self) -> dict[str, Any] | None:
        """What a job's column is to hold: what differs from the defaults, None when nothing does."""
        values = {name: getattr(self, name) for name in _DEFAULTS}
        differing = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
        return {
            name: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
            for name, value in differing.items()
        } or None


DEFAULT = Policy()
_DEFAULTS = {each.name: getattr(DEFAULT, each.name) for each in fields(Policy)}
