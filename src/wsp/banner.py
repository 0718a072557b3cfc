"""What `wsp serve` says when it is up: where everything is, and how to make the first call."""

import os
import shlex
from pathlib import Path

from rich.console import Console
from rich.text import Text

from wsp import __version__
from wsp.settings import ADMIN, TOKEN_FILE, Settings

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not listened on
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def print_banner(console: Console, settings: Settings, new_key: str | None) -> None:
    """Print the banner. `new_key` is the key made by this start, None on every later one."""
    api = f"http://{_in_a_url(settings.http_host)}:{settings.http_port}"
    token_file = settings.data_dir.absolute() / TOKEN_FILE
    lines = [
        ("API", f"{api}/api/v1"),
        ("Docs", f"{api}/docs"),
        ("FTP", f"ftp://{_in_a_url(settings.ftp_host)}:{settings.ftp_port}"),
        *_implicit_ftps(settings),
        ("Files", str(settings.files)),
        ("Key", _where_the_key_is(token_file, new_key)),
        ("Try", _first_call(api, token_file, new_key)),
    ]
    console.print()
    _say(console, Text(f"  wsp {__version__} is running", style="bold green"))
    console.print()
    for name, value in lines:
        _say(console, Text.assemble("  ", (f"{name:<7}", "bold"), value))
    console.print()
    if settings.http_host in LOOPBACK or settings.ftp_host in LOOPBACK:
        opening = " ".join(
            f"{variable}=0.0.0.0"
            for variable, host in (("WSP_HTTP_HOST", settings.http_host), ("WSP_FTP_HOST", settings.ftp_host))
            if host in LOOPBACK
        )
        _say(console, Text(f"  Only this machine can reach it; to open it to the network, start it with {opening}"))
    if settings.cron_run_as == "service" and os.geteuid() == 0:
        warning = "  Cron jobs run as root; WSP_CRON_RUN_AS=owner runs each as the system account of its owner"
        _say(console, Text(warning, style="bold yellow"))
    _say(console, Text("  Ctrl-C stops it."))
    console.print()


def _implicit_ftps(settings: Settings) -> list[tuple[str, str]]:
    if settings.ftp_implicit_tls_port is None:
        return []
    return [("FTPS", f"ftps://{_in_a_url(settings.ftp_host)}:{settings.ftp_implicit_tls_port}")]


def _say(console: Console, text: Text) -> None:
    # Never wrapped: lines are there to be copied.
    console.print(text, soft_wrap=True, highlight=False)


def own_address(host: str) -> str:
    """An address by which this machine can call itself when the server listens on `host`."""
    return ANY_ADDRESS.get(host, host)


def _in_a_url(host: str) -> str:
    address = own_address(host)
    return f"[{address}]" if ":" in address else address


def _where_the_key_is(token_file: Path, new_key: str | None) -> str:
    if new_key is not None:
        return f"{new_key}  (shown this once, kept in {token_file})"
    if token_file.exists():
        return f"in {token_file}"
    return f"{token_file} is gone; make another key with: wsp token create {ADMIN}"


def _first_call(api: str, token_file: Path, new_key: str | None) -> str:
    if new_key is None and not token_file.exists():
        key = "<key>"
    else:
        key = new_key or f"$(cat {shlex.quote(str(token_file))})"
    return f'curl -H "Authorization: Bearer {key}" {api}/api/v1/ftp/'
