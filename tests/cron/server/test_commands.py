"""What a command gets."""

import os
import pwd
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from wsp.cron.planning.work import Job, PlannedRun
from wsp.cron.policy import Policy
from wsp.cron.runner.orders import Order
from wsp.cron.server.commands import FOLDER_MISSING, FOLDER_OUTSIDE, HOME_TROUBLE, PATH, CannotStart, orders_for
from wsp.settings import Settings

NOON = datetime(2026, 5, 18, 12, 0, tzinfo=UTC)


def order(settings: Settings, **policy: Any) -> Order | CannotStart:
    run = PlannedRun(7, Job(1, "admin", "nightly", "echo $A", "", False, Policy(**policy)), NOON, NOON, "schedule")
    return orders_for([run], settings)[7]


@pytest.fixture
def home(settings: Settings) -> Path:
    return settings.files / "home" / "admin"


class TestOrder:
    def test_is_what_cron_gives(self, settings: Settings, home: Path) -> None:
        environment = {"HOME": str(home), "LOGNAME": "admin", "USER": "admin", "SHELL": "/bin/sh", "PATH": PATH}
        assert order(settings) == Order(7, "echo $A", str(home), environment, max_output_bytes=65536)
        assert home.is_dir()

    def test_has_what_the_policy_says(self, settings: Settings) -> None:
        found = order(
            settings,
            env={"A": "x", "TOKEN": "s3cret", "PATH": "/opt", "EMPTY": ""},
            secrets=("TOKEN", "EMPTY", "GONE"),
            shell="/bin/bash",
            stdin="héllo",
            timeout_seconds=9,
            kill_grace_seconds=3,
            max_output_bytes=2048,
            memory_mb=10,
            cpu_seconds=11,
            max_processes=12,
            nice=13,
        )
        assert isinstance(found, Order)
        assert (found.environment["A"], found.environment["PATH"], found.environment["SHELL"]) == (
            "x",
            "/opt",
            "/bin/bash",
        )
        assert (found.secrets, found.shell, found.stdin) == (("s3cret",), "/bin/bash", "héllo".encode())
        assert (found.timeout_seconds, found.kill_grace_seconds, found.max_output_bytes) == (9, 3, 2048)
        assert (found.memory_mb, found.cpu_seconds, found.max_processes, found.nice) == (10, 11, 12, 13)

    def test_names_the_account_only_where_it_is_the_owners(self, settings: Settings) -> None:
        for run_as, user in (("service", ""), ("owner", "admin")):
            found = order(settings.model_copy(update={"cron_run_as": run_as}))
            assert isinstance(found, Order)
            assert found.user == user

    def test_of_a_home_that_cannot_be_used(self, settings: Settings, home: Path) -> None:
        home.parent.mkdir(parents=True)
        home.symlink_to("/etc")
        assert order(settings) == CannotStart(HOME_TROUBLE)


class TestWorkingFolder:
    def test_lies_below_the_home(self, settings: Settings, home: Path) -> None:
        (home / "site" / "deep").mkdir(parents=True)
        (home / "link").symlink_to("site")
        for given, meant in (
            ("site/deep", "site/deep"),
            ("site/../site", "site"),
            ("link/deep", "site/deep"),
            (".", ""),
        ):
            found = order(settings, working_dir=given)
            assert isinstance(found, Order)
            assert found.folder == str(home / meant)
            assert found.environment["HOME"] == str(home)

    @pytest.mark.parametrize("given", ["..", "../other", "/etc", "out", "out/passwd", "site/../../other"])
    def test_there_is_no_way_out(self, settings: Settings, home: Path, given: str) -> None:
        (home / "site").mkdir(parents=True)
        (home.parent / "other").mkdir()
        (home / "out").symlink_to("/etc")
        assert order(settings, working_dir=given) == CannotStart(FOLDER_OUTSIDE.format(f"/home/admin/{given}"))

    @pytest.mark.parametrize("given", ["gone", "file", "ring", "a\0b"])
    def test_that_is_none(self, settings: Settings, home: Path, given: str) -> None:
        home.mkdir(parents=True)
        (home / "file").touch()
        (home / "ring").symlink_to("ring")
        assert order(settings, working_dir=given) == CannotStart(FOLDER_MISSING.format(f"/home/admin/{given}"))


class TestAccounts:
    """`cron_run_as=owner`: a user of the panel may have the name of one that is the system's."""

    @pytest.mark.parametrize(("uid", "first", "allowed"), [(0, 0, False), (33, 1000, False), (1000, 1000, True)])
    def test_of_the_system_are_nobodys(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid: int, first: int, allowed: bool
    ) -> None:
        (tmp_path / "login.defs").write_text(f"# UID_MIN 5\nUID_MIN\t{first}\nUID_MAX 60000\n")
        monkeypatch.setattr("wsp.cron.server.commands.LOGIN_DEFS", tmp_path / "login.defs")
        account = pwd.struct_passwd(("admin", "x", uid, uid, "", "/", "/bin/sh"))
        monkeypatch.setattr(pwd, "getpwnam", lambda name: account)
        monkeypatch.setattr(os, "chown", lambda *_: None)  # which takes root
        found = order(settings.model_copy(update={"cron_run_as": "owner"}))
        assert isinstance(found, Order) is allowed
        if isinstance(found, CannotStart):
            assert "the system account 'admin' is one of the system's own, with a uid below" in found.sentence
