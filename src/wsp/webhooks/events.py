"""The events that webhooks can be told of, and the patterns that choose among them."""

import re

EVENTS = {
    "account.created": "An FTP account was created",
    "account.updated": "An FTP account was changed; `changed` names what",
    "account.enabled": "An FTP account was enabled",
    "account.disabled": "An FTP account was disabled",
    "account.deleted": "An FTP account was deleted",
    "login.failed": "An FTP login was refused",
    "upload.completed": "An upload is complete, and the file has its name",
    "upload.failed": "An upload broke off or was refused",
}
"""Every event, and when it happens."""

PING = "ping"
"""What a test sends. No pattern has to name it."""


def matches(pattern: str, event: str) -> bool:
    """Does the pattern name the event? `*` stands for any text, also with dots in it."""
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), event) is not None


def known(pattern: str) -> bool:
    """Does the pattern name any event that there is?"""
    return any(matches(pattern, event) for event in EVENTS)
