"""`/api/v1/cronjobs`: a module for each part of it."""

from wsp.cron.endpoints import jobs, notices, outputs, runs

# Before the jobs come the paths that would be taken for a job's id.
ROUTERS = (notices.router, jobs.router, runs.router, outputs.router)
