"""The events that webhooks can be told of, and the patterns that choose among them."""

EVENTS = {
    "account.created": "An FTP account was created",
    "account.updated": "An FTP account was changed; `changed` names what",
    "account.enabled": "An FTP account was enabled",
    "account.disabled": "An FTP account was disabled",
    "account.deleted": "An FTP account was deleted",
    "login.failed": "An FTP login was refused",
    "upload.completed": "An upload is complete, and the file has its name",
    "upload.failed": "An upload broke off or was refused",
    "job.created": "A cron job was created",
    "job.updated": "A cron job was changed; `changed` names what",
    "job.enabled": "A cron job was enabled",
    "job.disabled": "A cron job was disabled",
    "job.deleted": "A cron job was deleted",
    "job.overdue": "A cron job has not succeeded for longer than it may",
    "job.recovered": "A cron job succeeded after it had failed or was overdue",
    "job.unusual": "A run took much longer or shorter than this job's runs usually do",
    "run.started": "A command was started",
    "run.succeeded": "A run ended well",
    "run.failed": "A run ended with another exit code than 0, or could not be started",
    "run.timed_out": "A run took longer than it may, and was ended",
    "run.killed": "A run was ended by somebody, or because the scheduler stopped",
    "run.lost": "A run whose end nobody saw",
    "run.skipped": "A run was due and was not started",
}
"""Every event, and when it happens."""

PING = "ping"
"""What a test sends. No pattern has to name it."""


def matches(pattern: str, event: str) -> bool:
    """Does the pattern name the event? `*` stands for any text, also with dots in it."""
    # No regular expression: with many stars it would try for years, and whoever makes a webhook chooses them.
    start, *rest = pattern.split("*")
    if not rest:
        return pattern == event
    *middle, end = rest
    at, until = len(start), len(event) - len(end)
    if at > until or not event.startswith(start) or not event.endswith(end):
        return False
    for part in middle:
        found = event.find(part, at, until)
        if found < 0:
            return False
        at = found + len(part)
    return True


def known(pattern: str) -> bool:
    """Does the pattern name any event that there is?"""
    return any(matches(pattern, event) for event in EVENTS)
