"""What commands start from: the settings."""

import typer

from wsp.settings import Settings, load_settings, unknown_settings


def read_settings(*, quiet: bool = False) -> Settings:
    """The effective settings, after a warning for each `WSP_*` variable that is none. Raises StartupError."""
    settings = load_settings()
    for sentence in [] if quiet else unknown_settings():
        typer.echo(f"wsp: warning: {sentence}", err=True)
    return settings
