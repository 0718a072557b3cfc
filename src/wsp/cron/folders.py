"""Where cron keeps what is no row: below the data folder."""

from pathlib import Path

FOLDER = "cron"
"""Of the runners: their sockets, logs and outputs."""

OUTPUTS = Path(FOLDER, "output")
"""Of the outputs that are longer than a row holds, and of those of runs that go on."""
