"""FTP through wsp against bare pyftpdlib with its dummy authorizer, on the loopback, as ratios of one run.

    python benchmarks/ftp.py                      512 MiB each way and 1,000 files of 4 KiB
    python benchmarks/ftp.py --size 64 --files 200 --rounds 3

The two servers take turns within each round, so that what else the machine does hits both. A ratio above 1 means
that wsp is faster; "cpu" is the same ratio for the processor time of the servers alone, which what else the machine
does hardly touches. Streams are timed from the command to the 226: the login, which with wsp costs a password hash, is
part of the small files' time only. Needs curl and lftp.
"""

import argparse
import logging
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from wsp import schema
from wsp.auth.models import User
from wsp.database import Database, utc_now
from wsp.ftp.models import FtpAccount
from wsp.passwords import hash_password
from wsp.settings import load_settings

USER = "bench_ftp"
PASSWORD = "benchmark"
MEBIBYTE = 2**20
TARGET = 0.9
START_SECONDS = 20.0
CLIENT_SECONDS = 300
FILE_BYTES = 4096
STREAMS = 4

BARE = """
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
port, home, user, password = int(sys.argv[1]), *sys.argv[2:]
class Handler(FTPHandler):
    authorizer = DummyAuthorizer()
Handler.authorizer.add_user(user, password, home, perm="elradfmwMT")
FTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

OURS = """
import sys
from pathlib import Path
from wsp.ftp.server.run import run
from wsp.logs import configure_logging
from wsp.settings import load_settings
settings = load_settings(data_dir=Path(sys.argv[2]), ftp_port=int(sys.argv[1]), ftp_passive_ports="20000-29999")
configure_logging(settings)
run(settings)
"""


class Server(NamedTuple):
    """A running server."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """Processor time used so far, by the process alone."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="MiB of the one stream each way")
    parser.add_argument("--files", type=int, default=1000, help="files of 4 KiB that lftp mirrors")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files lie; in memory, if there is /dev/shm, by default")
    options = parser.parse_args()
    for program in ("curl", "lftp"):
        if shutil.which(program) is None:
            sys.exit(f"{program} is needed")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    memory = Path("/dev/shm")  # a disk would be measured along with the servers
    where = options.folder or (memory if os.access(memory, os.W_OK) else None)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wsp-bench-", dir=where)))
        source = folder / "source"
        _make_source(source, options.size, options.files)
        ours = stack.enter_context(_ours(folder / "ours"))
        bare = stack.enter_context(_bare(folder / "bare"))
        print(f"{os.cpu_count()} cores, {options.size} MiB, {options.files} files of 4 KiB, {options.rounds} rounds")
        stream = source / "stream"
        _compare("upload, one stream, MiB/s", ours, bare, options, options.size, lambda port: _upload(port, stream))
        _compare("upload over an old file, MiB/s", ours, bare, options, options.size, lambda p: _replace(p, stream))
        _compare("download, one stream, MiB/s", ours, bare, options, options.size, _download)
        _compare("small uploads, files/s", ours, bare, options, options.files, lambda p: _mirror(p, source / "many"))


def _make_source(folder: Path, mebibytes: int, files: int) -> None:
    (folder / "many").mkdir(parents=True)
    with (folder / "stream").open("wb") as stream:
        for _ in range(mebibytes):
            stream.write(os.urandom(MEBIBYTE))
    for number in range(files):
        (folder / "many" / f"{number:05}.bin").write_bytes(os.urandom(FILE_BYTES))


def _compare(
    what: str, ours: Server, bare: Server, options: argparse.Namespace, amount: int, work: Callable[[int], float]
) -> None:
    rates: dict[Server, list[float]] = {ours: [], bare: []}
    costs: dict[Server, list[float]] = {ours: [], bare: []}
    for number in range(options.rounds + 1):
        # Who goes first alternates: the first of a pair may find colder caches.
        for server in (ours, bare) if number % 2 else (bare, ours):
            before = server.cpu_seconds()
            seconds = work(server.port)
            if number:  # the first round warms up
                rates[server].append(amount / seconds)
                costs[server].append(server.cpu_seconds() - before)
    ratio = statistics.median(a / b for a, b in zip(rates[ours], rates[bare], strict=True))
    cpu = statistics.median(costs[bare]) / statistics.median(costs[ours])
    verdict = "ok" if ratio >= TARGET else f"BELOW {TARGET}"
    medians = f"wsp {statistics.median(rates[ours]):6.0f}  bare {statistics.median(rates[bare]):6.0f}"
    print(f"{what:30} {medians}  ratio {ratio:.2f}  cpu {cpu:.2f}  {verdict}", flush=True)


def _upload(port: int, stream: Path) -> float:
    seconds = _replace(port, stream, "new")
    _curl("-Q", "DELE new", "-o", "/dev/null", f"ftp://127.0.0.1:{port}/")
    return seconds


def _replace(port: int, stream: Path, name: str = "stream") -> float:
    return _curl("-T", str(stream), f"ftp://127.0.0.1:{port}/{name}")


def _download(port: int) -> float:
    return _curl("-o", "/dev/null", f"ftp://127.0.0.1:{port}/stream")


def _curl(*arguments: str) -> float:
    """Seconds of the transfer alone, as curl tells them."""
    timing = ["-w", "%{stderr}%{time_total} %{time_pretransfer}"]
    done = subprocess.run(
        ["curl", "-sS", "-u", f"{USER}:{PASSWORD}", *timing, *arguments],
        check=True,
        timeout=CLIENT_SECONDS,
        stderr=subprocess.PIPE,
        text=True,
    )
    total, before = (float(word) for word in done.stderr.split()[-2:])
    return total - before


def _mirror(port: int, folder: Path) -> float:
    target = f"m{time.monotonic_ns()}"
    script = (
        f"set ftp:ssl-allow no; open -u {USER},{PASSWORD} ftp://127.0.0.1:{port}; "
        f"mirror -R --parallel={STREAMS} {folder} {target}; quit"
    )
    began = time.perf_counter()
    subprocess.run(["lftp", "-c", script], check=True, timeout=CLIENT_SECONDS, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


@contextmanager
def _bare(home: Path) -> Iterator[Server]:
    home.mkdir()
    with _server(BARE, str(home), USER, PASSWORD) as server:
        yield server


@contextmanager
def _ours(data: Path) -> Iterator[Server]:
    settings = load_settings(data_dir=data)
    database = Database(settings.database)
    schema.upgrade(database)
    now, hashed = utc_now(), hash_password(PASSWORD)
    with database.transaction() as session:
        session.add(User(username="bench", role="user", created_at=now, updated_at=now))
        session.flush()
        session.add(
            FtpAccount(
                username=USER,
                owner="bench",
                home_dir="/home/bench",
                password_hash=hashed,
                allowed_ips=[],
                created_at=now,
                updated_at=now,
            )
        )
    database.close()
    with _server(OURS, str(data)) as server:
        yield server


@contextmanager
def _server(program: str, *arguments: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-c", program, str(port), *arguments], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    sys.exit(f"the server on port {port} did not start")


if __name__ == "__main__":
    main()
