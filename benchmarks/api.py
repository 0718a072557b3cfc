"""`GET /ftp/` with ten accounts, against a bare FastAPI endpoint that returns a constant model.

Both run on the same uvicorn, one process each, one after the other in turns; the figure is the ratio of their
request rates, so it holds when the machine's speed drifts. The client is the same for both, so it takes its
share of the time from both: with a client that costs nothing the ratio would be smaller.

    python benchmarks/api.py [--requests 3000] [--rounds 5] [--profile]
"""

import argparse
import cProfile
import multiprocessing
import pstats
import signal
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from wsp import schema
from wsp.auth.service import create_user, issue_key
from wsp.database import Database
from wsp.ftp.schemas import AccountList, AccountOut
from wsp.ftp.service import create_account
from wsp.logs import configure_logging
from wsp.settings import load_settings
from wsp.web.app import create_app

TARGET = 0.3
ACCOUNTS = 10


class Constant(BaseModel):
    """What the bare endpoint returns."""

    success: bool
    message: str


def bare_app() -> FastAPI:
    """The least that FastAPI can do."""
    app = FastAPI()
    constant = Constant(success=True, message="constant")

    @app.get("/api/v1/ftp/")
    async def constant_model() -> Constant:
        return constant

    return app


def same_answer_app() -> FastAPI:
    """Bare FastAPI giving the same answer as wsp, built from memory: what is left is our own work."""
    app = FastAPI()
    account = AccountOut(
        username="admin_deploy0",
        owner="admin",
        home_dir="/home/admin",
        quota_mb=0,
        read_only=False,
        enabled=True,
        created_at="2026-05-18T17:44:36+07:00",
        updated_at="2026-05-18T17:44:36+07:00",
    )
    accounts = AccountList(accounts=[account] * ACCOUNTS, total=ACCOUNTS)

    @app.get("/api/v1/ftp/")
    def same_answer() -> AccountList:
        return accounts

    return app


def prepare(folder: Path) -> str:
    """A database with ten accounts. Returns the admin's key."""
    database = Database(f"sqlite:///{folder / 'wsp.db'}")
    schema.upgrade(database)
    with database.transaction() as session:
        admin = create_user(session, "admin", role="admin")
        _, secret = issue_key(session, admin, name="benchmark")
        for number in range(ACCOUNTS):
            create_account(session, owner="admin", name=f"deploy{number}", password_hash="x")
    database.close()
    return secret


def serve(which: str, folder: str, port: int, profile: bool) -> None:
    """Run one of the applications until the process is ended."""
    settings = load_settings(data_dir=folder, rate_limit=1_000_000_000, log_level="info", timezone="UTC")
    apps = {"bare": bare_app, "same answer": same_answer_app}
    with Path(folder, "log").open("a") as log:
        if which == "wsp":
            sys.stderr = log  # the log is written as always, but not to the terminal
            configure_logging(settings)
            app = create_app(settings, Database(settings.database))
        else:
            app = apps[which]()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
        if not profile:
            server.run()
            return
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again, and the profile would be lost
        profiler = cProfile.Profile()
        profiler.runcall(server.run)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)


def rate(port: int, secret: str, requests: int, expected: bytes) -> float:
    """Requests a second over one kept connection, one at a time."""
    request = (
        f"GET /api/v1/ftp/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {secret}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = connection.makefile("rb")
        start = time.perf_counter()
        for _ in range(requests):
            connection.sendall(request)
            length = 0
            status = stream.readline()
            while (line := stream.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            body = stream.read(length)
            if b" 200 " not in status or expected not in body:
                raise SystemExit(f"unexpected answer: {status!r} {body[:200]!r}")
        return requests / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where the time of wsp goes instead")
    options = parser.parse_args()
    names = {"wsp": b"admin_deploy9", "bare": b"constant", "same answer": b"admin_deploy0"}
    with tempfile.TemporaryDirectory() as folder:
        secret = prepare(Path(folder))
        ports = {}
        processes = []
        for name in names if not options.profile else ["wsp"]:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                ports[name] = probe.getsockname()[1]
            process = multiprocessing.get_context("spawn").Process(
                target=serve, args=(name, folder, ports[name], options.profile)
            )
            process.start()
            processes.append(process)
        try:
            for port in ports.values():
                wait_for(port)
            rates: dict[str, list[float]] = {name: [] for name in ports}
            for name, port in ports.items():
                rate(port, secret, 300, names[name])
            for _ in range(options.rounds):
                for name, port in ports.items():
                    rates[name].append(rate(port, secret, options.requests, names[name]))
        finally:
            for process in processes:
                process.terminate()
                process.join()
    for name, measured in rates.items():
        print(f"{name:12} {statistics.median(measured):8.0f} requests/s (median of {options.rounds})")
    if options.profile:
        return
    for peer in ("bare", "same answer"):
        ratios = [ours / theirs for ours, theirs in zip(rates["wsp"], rates[peer], strict=True)]
        wanted = f", wanted at least {TARGET}" if peer == "bare" else ""
        print(f"wsp / {peer}: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}){wanted}")


def wait_for(port: int) -> None:
    """Wait until somebody listens on the port."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"nothing listens on port {port}")


if __name__ == "__main__":
    main()
