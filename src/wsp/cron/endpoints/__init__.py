"""`/api/v1/cronjobs`: a module for each part of it."""

from wsp.cron.endpoints import jobs, stats

# Before the jobs come the paths that would be taken for a job's id.
ROUTERS = (stats.router, jobs.router)
from wsp.cron.endpoints import control, jobs, notices, outputs, runs

# Before the jobs come the paths that would be taken for a job's id.
ROUTERS = (control.router, notices.router, jobs.router, runs.router, outputs.router)
from wsp.cron.endpoints import jobs, preview

# Before the jobs come the paths that would be taken for a job's id.
ROUTERS = (preview.router, jobs.router)
from wsp.cron.endpoints import control, jobs, notices, outputs, runs, transfer

# Before the jobs come the paths that would be taken for a job's id.
ROUTERS = (transfer.router, control.router, notices.router, jobs.router, runs.router, outputs.router)
