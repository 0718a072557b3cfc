"""`GET /ftp/` with ten accounts, against a bare FastAPI endpoint that returns a constant model.

Both run on the same uvicorn, one process each, one after the other in turns; the figure is the ratio of their
request rates, so it holds when the machine's speed drifts. The client is the same for both, so it takes its
share of the time from both: with a client that costs nothing the ratio would be smaller.

    python benchmarks/api.py [--requests 3000] [--rounds 5] [--profile]
"""

import argparse
import cProfile
import itertools
import multiprocessing
import pstats
import signal
import socket
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from wsp import schema
from wsp.auth.service import create_user, issue_key
from wsp.database import Database
from wsp.ftp.schemas import AccountList, AccountOut
from wsp.ftp.service import create_account
from wsp.heartbeat import Heartbeat
from wsp.logs import configure_logging
from wsp.settings import load_settings
from wsp.web.app import create_app

TARGET = 0.3
MADE_ANEW = "wsp, made anew"
ACCOUNTS = 10
CONNECTIONS = 8

numbers = itertools.count()


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
            database = Database(settings.database)
            app = create_app(settings, database)
            for kind in ("api", "ftp", "cron"):  # what the services of a whole server commit, all the time
                Heartbeat(database, kind, kind).start()
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


def rate(port: int, secret: str, requests: int, expected: bytes, *, anew: bool = False) -> float:
    """Requests a second over a few kept connections, each with one request under way.

    With `anew` no two requests are the same, so that no answer can be used again.
    """

    def request() -> bytes:
        query = f"?n={next(numbers)}" if anew else ""
        path = f"/api/v1/ftp/{query}"
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {secret}\r\n\r\n".encode()

    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(CONNECTIONS)]
        streams = [stack.enter_context(connection.makefile("rb")) for connection in connections]
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(request())
        start = time.perf_counter()
        for _ in range(requests // CONNECTIONS):
            for connection, stream in zip(connections, streams, strict=True):
                read_answer(stream, expected)
                connection.sendall(request())
        seconds = time.perf_counter() - start
        for stream in streams:
            read_answer(stream, expected)
    return requests / seconds


def read_answer(stream: BinaryIO, expected: bytes) -> None:
    """Read one answer to its end. Stops the benchmark when it is not the one that was asked for."""
    length = 0
    status = stream.readline()
    while (line := stream.readline()) != b"\r\n":
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    body = stream.read(length)
    if b" 200 " not in status or expected not in body:
        raise SystemExit(f"unexpected answer: {status!r} {body[:200]!r}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="print where the time of wsp goes instead")
    options = parser.parse_args()
    names = {"wsp": b"admin_deploy9", "bare": b"constant", "same answer": b"admin_deploy0"}
    names[MADE_ANEW] = names["wsp"]
    with tempfile.TemporaryDirectory() as folder:
        secret = prepare(Path(folder))
        ports = {}
        processes = []
        for name in ["wsp"] if options.profile else ["wsp", "bare", "same answer"]:
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
            rows = {name: (port, False) for name, port in ports.items()} | {MADE_ANEW: (ports["wsp"], True)}
            rates: dict[str, list[float]] = {name: [] for name in rows}
            for name, (port, anew) in rows.items():
                rate(port, secret, 304, names[name], anew=anew)
            for _ in range(options.rounds):
                for name, (port, anew) in rows.items():
                    rates[name].append(rate(port, secret, options.requests, names[name], anew=anew))
        finally:
            for process in processes:
                process.terminate()
                process.join()
    for name, measured in rates.items():
        print(f"{name:16} {statistics.median(measured):8.0f} requests/s (median of {options.rounds})")
    if options.profile:
        return
    for ours, theirs in (("wsp", "bare"), ("wsp", "same answer"), (MADE_ANEW, "bare"), (MADE_ANEW, "same answer")):
        ratios = [a / b for a, b in zip(rates[ours], rates[theirs], strict=True)]
        wanted = f", wanted at least {TARGET}" if (ours, theirs) == ("wsp", "bare") else ""
        print(f"{ours} / {theirs}: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}){wanted}")


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
