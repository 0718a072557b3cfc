"""Thousands of sessions that do nothing: all of them are served, at little memory and no processor time."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "idle_sessions.py"
SPARE_DESCRIPTORS = 200


@pytest.mark.e2e
class TestIdleSessions:
    @pytest.mark.parametrize(
        ("sessions", "options"),
        [(300, ()), (1000, ("--tls",)), pytest.param(5000, (), marks=pytest.mark.slow)],
        ids=["300", "1000-tls", "5000"],
    )
    def test_stay_within_the_bounds_of_the_benchmark(self, sessions: int, options: tuple[str, ...]) -> None:
        if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2 * sessions + SPARE_DESCRIPTORS:
            pytest.skip("the hard limit of descriptors is too low here")
        words = [sys.executable, str(BENCHMARK), "--sessions", str(sessions), "--seconds", "3", *options]
        done = subprocess.run(words, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
