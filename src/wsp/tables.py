"""Every table of the store, gathered for migrations."""

from wsp.auth.models import ApiKey, User
from wsp.cron.models import CronJob, JobRun
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
    "Credential",
    "CronJob",
    "Delivery",
    "Epoch",
    "FtpAccount",
    "Guest",
    "JobRun",
    "LastSession",
    "ServiceRow",
    "SessionRow",
    "StoredAnswer",
    "Transfer",
    "Usage",
    "User",
    "Webhook",
    "metadata",
]
