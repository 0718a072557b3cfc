"""Every table of the store, gathered for migrations."""

from wsp.auth.models import ApiKey, User
from wsp.counters import CounterRow
from wsp.cron.models import CronJob, CronState, Follows, JobRun, Maintenance, Notice, Pause
from wsp.database import Base
from wsp.epochs import Epoch
from wsp.ftp.models import AnonymousAccess, Credential, FtpAccount, Guest, Usage
from wsp.ftp.records import LastSession, SessionRow, Transfer
from wsp.heartbeat import ServiceRow
from wsp.rest.models import StoredAnswer
from wsp.webhooks.models import Delivery, Webhook

metadata = Base.metadata

__all__ = [
    "AnonymousAccess",
    "ApiKey",
    "CounterRow",
    "Credential",
    "CronJob",
    "CronState",
    "Delivery",
    "Epoch",
    "Follows",
    "FtpAccount",
    "Guest",
    "JobRun",
    "LastSession",
    "Maintenance",
    "Notice",
    "Pause",
    "ServiceRow",
    "SessionRow",
    "StoredAnswer",
    "Transfer",
    "Usage",
    "User",
    "Webhook",
    "metadata",
]
