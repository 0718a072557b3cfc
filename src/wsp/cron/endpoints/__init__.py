"""`/api/v1/cronjobs`: a module for each part of it."""

from wsp.cron.endpoints import control, jobs, notices, outputs, preview, runs, stats, transfer

# Before the jobs come the paths that would be taken for a job's id.
ROUTERS = (
    *(preview.router, transfer.router, control.router, notices.router),
    *(jobs.router, runs.router, outputs.router, stats.router),
)
