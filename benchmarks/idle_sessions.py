"""What sessions cost that are logged in and do nothing: memory and processor time of one FTP process.

    python benchmarks/idle_sessions.py                 5,000 sessions in clear text
    python benchmarks/idle_sessions.py --tls           the same with a control channel over TLS

Memory is the PSS of the process, which counts only what is its own; the kernel's part (sockets) is not in it.
Every session has listed nothing, stored nothing, and sent one NOOP at the end, to show that it is served.
"""

import argparse
import os
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wsp import schema
from wsp.auth.models import User
from wsp.database import Database, utc_now
from wsp.ftp.models import FtpAccount
from wsp.passwords import hash_password
from wsp.settings import load_settings

USER = "bench_idle"
PASSWORD = "benchmark"
KIBIBYTE = 1024
SETTLE_SECONDS = 2.0
TIMEOUT_SECONDS = 30.0
SPARE_DESCRIPTORS = 100

MAX_SESSION_KB = 30.0
MAX_CPU_PERCENT = 2.0  # of one core, for all the sessions together
MAX_LOGIN_SECONDS = 1.0

SERVER = """
from wsp.ftp.server.run import run
from wsp.logs import configure_logging
from wsp.settings import load_settings
settings = load_settings()
configure_logging(settings)
run(settings)
"""


class Client:
    """One control connection."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
        self.expect("220")
        if context is not None:
            self.ask("AUTH TLS", "234")
            self.socket = context.wrap_socket(self.socket)
        self.ask(f"USER {USER}", "331")
        self.ask(f"PASS {PASSWORD}", "230")

    def ask(self, line: str, code: str) -> None:
        """Send a command, and wait for the reply."""
        self.socket.sendall(f"{line}\r\n".encode())
        self.expect(code)

    def expect(self, code: str) -> None:
        """Read one reply of one line."""
        reply = self.socket.recv(4096)
        if not reply.startswith(code.encode()):
            sys.exit(f"{reply!r} instead of {code}")


def main() -> int:
    """Measure, print, and return 1 when a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to look at the idle server")
    parser.add_argument("--tls", action="store_true", help="control channels over TLS")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The server inherits the limit, and a session takes two descriptors there.
    if most < 2 * options.sessions + SPARE_DESCRIPTORS:
        print(f"{options.sessions} sessions do not fit in {most} descriptors (ulimit -Hn)", file=sys.stderr)
        return 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    context = None
    if options.tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with tempfile.TemporaryDirectory(prefix="wsp-idle-sessions-") as folder, ExitStack() as stack:
        port, pid = stack.enter_context(serving(Path(folder), options.sessions + SPARE_DESCRIPTORS))

        def client() -> Client:
            opened = Client(port, context)
            stack.callback(opened.socket.close)
            return opened

        client()  # what the first session imports and caches is not the others' cost
        time.sleep(SETTLE_SECONDS)
        before = pss(pid)
        began = time.perf_counter()
        clients = [client() for _ in range(options.sessions)]
        opening = time.perf_counter() - began
        time.sleep(SETTLE_SECONDS)
        cost = (pss(pid) - before) / options.sessions / KIBIBYTE
        used = cpu_seconds(pid)
        time.sleep(options.seconds)
        percent = 100 * (cpu_seconds(pid) - used) / options.seconds
        began = time.perf_counter()
        client()
        login = time.perf_counter() - began
        for each in clients:
            each.ask("NOOP", "200")
    print(f"{options.sessions} sessions, {'TLS' if options.tls else 'clear text'}, opened in {opening:.1f} s")
    print(f"memory of a session  {cost:7.1f} KB    at most {MAX_SESSION_KB:g}")
    print(f"processor            {percent:7.2f} %     at most {MAX_CPU_PERCENT:g}")
    print(f"one more login       {1000 * login:7.1f} ms    at most {1000 * MAX_LOGIN_SECONDS:g}")
    return int(cost > MAX_SESSION_KB or percent > MAX_CPU_PERCENT or login > MAX_LOGIN_SECONDS)


@contextmanager
def serving(folder: Path, most_sessions: int) -> Iterator[tuple[int, int]]:
    """A running FTP process with one account: its port and its pid."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    told = {name: value for name, value in os.environ.items() if not name.startswith("WSP_")} | {
        "WSP_DATA_DIR": str(folder),
        "WSP_TIMEZONE": "UTC",
        "WSP_FTP_PORT": str(port),
        "WSP_FTP_IDLE_TIMEOUT": "3600",
        "WSP_FTP_MAX_SESSIONS": str(most_sessions),
        "WSP_FTP_MAX_SESSIONS_PER_ADDRESS": "0",
    }
    database = Database(load_settings(data_dir=folder, timezone="UTC").database)
    schema.upgrade(database)
    now = utc_now()
    with database.transaction() as session:
        session.add(User(username="bench", role="user", status="active", created_at=now, updated_at=now))
        session.flush()
        session.add(
            FtpAccount(
                username=USER,
                owner="bench",
                password_hash=hash_password(PASSWORD),
                home_dir="/home/bench",
                created_at=now,
                updated_at=now,
            )
        )
    database.close()
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", SERVER], env=told, cwd=folder, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while "FTP is served" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def pss(pid: int) -> int:
    """Memory that is the process's own, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * KIBIBYTE
    raise ValueError("no Pss in smaps_rollup")


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
