"""`/api/v1/cronjobs`: a module for each part of it."""

from wsp.cron.endpoints import control, jobs, notices, outputs, runs, transfer

# Before the jobs come the paths that would be taken for a job's id.
ROUTERS = (transfer.router, control.router, notices.router, jobs.router, runs.router, outputs.router)
