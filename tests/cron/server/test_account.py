"""Which account commands run as, and what is said about it."""

import io
import logging
import os
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from wsp.banner import print_banner
from wsp.cron.server.run import run
from wsp.errors import StartupError
from wsp.settings import Settings

WARNING = "Cron jobs run as root"


def banner(settings: Settings) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_banner(console, settings, None)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


class TestRoot:
    @pytest.mark.parametrize(
        ("uid", "run_as", "warned"), [(0, "service", True), (0, "owner", False), (7, "service", False)]
    )
    def test_is_warned_of_when_it_runs_every_job(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, uid: int, run_as: str, warned: bool
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        assert (WARNING in banner(settings.model_copy(update={"cron_run_as": run_as}))) is warned

    def test_is_warned_of_in_the_log(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr("wsp.cron.server.run.asyncio.run", lambda serving: serving.close())
        with caplog.at_level(logging.WARNING):
            run(settings)
        assert "the commands of all jobs run as root" in caplog.text


class TestOwner:
    @pytest.mark.parametrize("closed", ["", "srv", "srv/files", "srv/files/home"])
    def test_that_cannot_get_to_the_homes_is_warned_of_in_the_log(
        self,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        closed: str,
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr("wsp.cron.server.run.asyncio.run", lambda serving: serving.close())
        with tempfile.TemporaryDirectory() as top:  # tmp_path lies in a closed folder itself
            root = Path(top, "srv", "files")
            (root / "home").mkdir(parents=True)
            for folder in (Path(top), root.parent, root, root / "home"):
                folder.chmod(0o711)
            if closed:
                Path(top, closed).chmod(0o700)
            with caplog.at_level(logging.WARNING):
                run(settings.model_copy(update={"cron_run_as": "owner", "files_root": root}))
        assert ("the accounts cannot enter" in caplog.text) is bool(closed)
        assert not closed or f"cannot enter {Path(top, closed)}," in caplog.text

    def test_needs_root(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 7)
        with pytest.raises(StartupError, match=r"^WSP_CRON_RUN_AS: owner needs root, .*; service is allowed$"):
            run(settings.model_copy(update={"cron_run_as": "owner"}))
