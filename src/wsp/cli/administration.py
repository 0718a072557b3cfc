"""The commands that look at a server or change what it knows: everything but the servers themselves.

What one needs is imported when it is asked for, as most are done before the others would have been imported.
"""

from functools import cache
from importlib import import_module

import typer

from wsp.cli import services

_MODULES = {
    "config": ("config",),
    "openapi": ("openapi",),
    "ftp": ("accounts",),
    "cron": ("cronjobs", "cronruns"),
    "token": ("tokens",),
    "user": ("users",),
    "db": ("db",),
}
_GROUPS = {"ftp": services.ftp_app, "cron": services.cron_app}


def add_to(app: typer.Typer, name: str) -> None:
    """Add the command or group of this name; where there is none, as for the help, all of them."""
    for known in [name] if name in _MODULES else _MODULES:
        _add(_GROUPS.get(known, app), known)


@cache
def _add(app: typer.Typer, name: str) -> None:
    for module in _MODULES[name]:
        import_module(f"wsp.cli.{module}").add_to(app)
