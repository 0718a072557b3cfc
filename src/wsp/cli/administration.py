"""The commands that look at a server or change what it knows: everything but the servers themselves."""

import typer

from wsp.cli import accounts, config, cronjobs, cronruns, db, openapi, services, tokens, users


def add_to(app: typer.Typer) -> None:
    """Add the commands and their groups."""
    config.add_to(app)
    openapi.add_to(app)
    accounts.add_to(services.ftp_app)
    cronjobs.add_to(services.cron_app)
    cronruns.add_to(services.cron_app)
    app.add_typer(tokens.app)
    app.add_typer(users.app)
    app.add_typer(db.app)
