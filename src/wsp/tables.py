"""Every table of the store, gathered for migrations."""

from wsp.auth.models import ApiKey, User
from wsp.cron.models import CronJob, JobRun
from wsp.database import Base
from wsp.ftp.models import AnonymousAccess, FtpAccount
from wsp.heartbeat import ServiceRow
from wsp.rest.models import StoredAnswer

metadata = Base.metadata

__all__ = [
    "AnonymousAccess",
    "ApiKey",
    "CronJob",
    "FtpAccount",
    "JobRun",
    "ServiceRow",
    "StoredAnswer",
    "User",
    "metadata",
]
