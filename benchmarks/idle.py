"""What a server costs that has nothing to do: memory of all its processes, and processor time.

    python benchmarks/idle.py [--seconds 30] [--database-url postgresql://…]

Starts `wsp serve` in a temporary folder on free ports, waits until it is ready, and then only looks at /proc.
RSS counts a page that processes share in each of them; PSS splits it between them, so its sum is what is really used.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MEBIBYTE = 2**20
SETTLE_SECONDS = 5.0  # after the banner: imports and first queries are not idling

MAX_RESIDENT_MB = 300
MAX_CPU_PERCENT = 1.0


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def memory(pid: int) -> tuple[float, float]:
    """RSS and PSS of a process, in MB."""
    values = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount, *_ = line.split()
        values[name] = int(amount) * 1024 / MEBIBYTE
    return values["Rss:"], values["Pss:"]


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have started in turn."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *children(child)]
    return found


def name(pid: int) -> str:
    """The service that a process runs."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    if "wsp.cron.runner" in words:
        return "runner"
    return next((word for word in words if word in ("serve", "api", "ftp", "cron")), "?")


def main() -> int:
    """Measure, print, and return 1 when a bound is exceeded."""
    parser = argparse.ArgumentParser(description="Memory and processor time of an idle server")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to look")
    parser.add_argument("--database-url", help="PostgreSQL instead of SQLite")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wsp-idle-") as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WSP_")}
        environment |= {"WSP_HTTP_PORT": str(free_port()), "WSP_FTP_PORT": str(free_port())}
        if options.database_url:
            environment["WSP_DATABASE_URL"] = options.database_url
        with subprocess.Popen(
            [sys.executable, "-m", "wsp", "serve"],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as server:
            try:
                assert server.stdout is not None
                while "Ctrl-C" not in (line := server.stdout.readline()):
                    if not line and server.poll() is not None:
                        print("the server did not start", file=sys.stderr)
                        return 1
                time.sleep(SETTLE_SECONDS)
                return measure([server.pid, *children(server.pid)], options.seconds)
            finally:
                server.terminate()


def measure(pids: list[int], seconds: float) -> int:
    """Look at the processes for a while. Returns 1 when they use more than they should."""
    before = {pid: cpu_seconds(pid) for pid in pids}
    time.sleep(seconds)
    used = {pid: cpu_seconds(pid) - before[pid] for pid in pids}
    held = {pid: memory(pid) for pid in pids}
    print(f"{'process':8} {'RSS MB':>8} {'PSS MB':>8} {'CPU %':>8}")
    for pid in pids:
        print(f"{name(pid):8} {held[pid][0]:8.1f} {held[pid][1]:8.1f} {100 * used[pid] / seconds:8.2f}")
    rss, pss = (sum(held[pid][kind] for pid in pids) for kind in (0, 1))
    cpu = 100 * sum(used.values()) / seconds
    print(f"{'all':8} {rss:8.1f} {pss:8.1f} {cpu:8.2f}")
    print(f"allowed: {MAX_RESIDENT_MB} MB, {MAX_CPU_PERCENT} % of a core")
    return int(rss > MAX_RESIDENT_MB or cpu > MAX_CPU_PERCENT)


if __name__ == "__main__":
    sys.exit(main())
