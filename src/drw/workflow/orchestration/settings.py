"""Settings of the orchestration service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from drw.kernel.runtime.settings import Settings as Base


class Settings(Base):
    """Settings of run execution."""

    executor: str = Field(default="workflow-0", min_length=1, max_length=100)
    """Executor name. Of several processes with the same name, one is the leader and the others are standbys. Leaders
    with different names share the runs, and take over those of a name without a leader."""
    lease_seconds: float = Field(default=10.0, ge=1, le=60)
    """After this time, the runs of a process that is frozen or cut from the database pass to another one."""
    max_concurrent_steps: int = Field(default=4, ge=1, le=100)
    """Maximum concurrent steps of one run."""
    max_open_runs: int = Field(default=50, ge=1)
    """Maximum unfinished runs per desk, counted within the caller's walls."""
    max_active_runs: int = Field(default=1000, ge=1)
    """Maximum runs that are executed at the same time. Others are queued. Child runs and paused runs do not count."""
    max_active_runs_per_desk: int = Field(default=50, ge=1)
    """Maximum runs of one desk that are executed at the same time. Others are queued, by priority."""
    max_payload_bytes: int = Field(default=16 << 20, ge=64 << 10, le=32 << 20)
    """Maximum bytes of the inputs or the output of a run, and of the output of a step. Over HTTP, a request has at most
    1 MiB."""
    max_run_payload_bytes: int = Field(default=256 << 20, ge=64 << 10)
    """Maximum bytes of all values above 64 KiB of one run."""
    max_desk_payload_bytes: int = Field(default=10 << 30, ge=64 << 10)
    """Maximum bytes of all values above 64 KiB of the runs of one desk."""
    max_run_signals: int = Field(default=1000, ge=1, le=100_000)
    """Maximum signals that are kept for one run."""
    functions: dict[str, str] = Field(default_factory=dict)
    """Functions that `python` nodes call, by name, as in `pnl = "desk.functions:pnl"`. Packages add functions with the
    entry point `drw.workflow.functions`."""
    initial_retry_seconds: float = Field(default=0.5, gt=0, le=60)
    """Delay between a step's first and second attempt. It doubles with each attempt, up to 15 s."""
    max_interruptions: int = Field(default=20, ge=1)
    """Number of times that the process of a run may die before a step of the run ends. Then the run fails. Deaths while
    it only waits do not count."""
    max_schedules: int = Field(default=200, ge=1, le=10_000)
    """Maximum schedules per desk, counted within the caller's walls."""
    min_schedule_interval_seconds: int = Field(default=60, ge=60)
    """Minimum interval between two occurrences of a schedule."""
    max_backfill_runs: int = Field(default=500, ge=1, le=10_000)
    """Maximum occurrences of one back-fill."""
    max_triggers: int = Field(default=100, ge=1, le=10_000)
    """Maximum triggers per desk, counted within the caller's walls."""
    max_trigger_runs_per_minute: int = Field(default=60, ge=1, le=10_000)
    """Maximum runs that one trigger starts in a minute. Further events wait."""
    max_trigger_backlog: int = Field(default=1_000, ge=1, le=100_000)
    """Maximum events of one trigger that wait for their runs. Further events are dropped, and audited as such."""
    max_event_depth: int = Field(default=5, ge=1, le=100)
    """Maximum runs that events start one by another, as when the end of a run starts the next one."""
    calendar_overrides: Path | None = None
    """TOML file with changed sessions of exchanges, and freeze windows in which schedules start no runs."""
    retention_days: int = Field(default=400, ge=0, le=36_500)
    """Days after which an ended run is deleted; 0: never. `retention_days` of a template takes precedence. A legal hold
    keeps runs longer, and audit records are never deleted."""
    retention_interval_seconds: float = Field(default=600, gt=0, le=86_400)
    """Interval at which the leader deletes expired runs."""
