"""Reports: how they add up while the store is away, and what is written of them, on both stores."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from wsp.auth.service import create_user
from wsp.database import Database
from wsp.ftp import anonymous, reports, service
from wsp.ftp.counting import Figure
from wsp.ftp.models import Usage
from wsp.ftp.records import LastSession, SessionRow, Transfer
from wsp.ftp.reports import EndedSession, EndedTransfer, Report, write
from wsp.ftp.retention import BATCH, tidy
from wsp.ftp.service import create_account
from wsp.ftp.usage import store_usage
from wsp.heartbeat import ServiceRow

NOW = datetime(2026, 5, 18, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)

TRANSFER = EndedTransfer(
    username="ann_web",
    owner="ann",
    session_id="s",
    address="203.0.113.7",
    tls=True,
    direction="upload",
    path="/f",
    bytes=5,
    started_at=NOW - SECOND,
    ended_at=NOW,
    duration_ms=1000,
    reason="",
    checksum="",
    ascii=False,
    anonymous=False,
)


def ended(start: int, end: int, *, ok: bool, sentence: str = "", refusal: str = "") -> EndedSession:
    """A session of the account, from and to so many seconds after noon."""
    return EndedSession(
        username="ann_web",
        owner="ann",
        session_id="s",
        address="203.0.113.7",
        client="",
        tls="",
        started_at=NOW + start * SECOND,
        ended_at=NOW + end * SECOND,
        ok=ok,
        sentence=sentence,
        refusal=refusal,
    )


def row(session_id: str = "s", **columns: Any) -> dict[str, Any]:
    """A live session."""
    return {
        "id": session_id,
        "service_id": "here",
        "username": "ann_web",
        "owner": "ann",
        "address": "203.0.113.7",
        "client": "",
        "tls": "",
        "started_at": NOW,
        "active_at": NOW,
        "command": "NOOP",
        "direction": "",
        "path": "",
        "transferred": 0,
        "rate": 0,
        "bytes_uploaded": 0,
        "bytes_downloaded": 0,
        "uploads": 0,
        "downloads": 0,
        "failures": 0,
        "sentence": "",
        **columns,
    }


@pytest.fixture
def account(database: Database) -> str:
    with database.transaction() as session:
        create_user(session, "ann")
        return create_account(session, owner="ann", name="web", password_hash="x").username


def report(database: Database, **parts: Any) -> None:
    with database.transaction() as session:
        write(session, Report(**parts), keep_transfers=True)


class TestAdding:
    def test_a_session_that_came_and_went_leaves_nothing_but_its_end(self) -> None:
        waiting = Report(rows={"s": row()})
        waiting.add(Report(gone={"s"}))
        assert (waiting.rows, waiting.gone) == ({}, {"s"})
        waiting.add(Report(rows={"s": row()}))  # the same connection, with another login
        assert (list(waiting.rows), waiting.gone) == (["s"], set())

    def test_the_oldest_transfers_are_given_up_and_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reports, "TRANSFERS_KEPT", 3)
        waiting = Report()
        for number in range(5):
            waiting.add(Report(transfers=[replace(TRANSFER, path=f"/{number}")]))
        assert [transfer.path for transfer in waiting.transfers] == ["/2", "/3", "/4"]
        assert waiting.lost == 2

    def test_refused_logins_of_one_kind_are_one(self) -> None:
        waiting = Report()
        for second in range(3):
            later = Report()
            later.add_refusal(ended(second, second, ok=False, refusal="The password is wrong."))
            waiting.add(later)
        (refused,) = waiting.refusals.values()
        assert (refused.attempts, refused.ended_at) == (3, NOW + 2 * SECOND)


class TestWriting:
    def test_a_row_is_made_and_then_changed_and_a_request_to_end_it_stays(self, database: Database) -> None:
        report(database, rows={"s": row()})
        with database.transaction() as session:
            session.get_one(SessionRow, "s").end_requested = True
        report(database, rows={"s": row(command="STOR"), "t": row("t")})
        with database.reading() as session:
            found = {one.id: (one.command, one.end_requested) for one in session.scalars(select(SessionRow))}
        assert found == {"s": ("STOR", True), "t": ("NOOP", False)}
        report(database, gone={"s"})
        with database.reading() as session:
            assert list(session.scalars(select(SessionRow.id))) == ["t"]

    @pytest.mark.parametrize(
        ("sessions", "told"),
        [
            ([ended(0, 1, ok=False, sentence="failed"), ended(2, 3, ok=True, sentence="well")], "well"),
            # Two connections of one client: the one that went well ends later, and hides nothing.
            ([ended(0, 2, ok=False, sentence="failed"), ended(1, 3, ok=True, sentence="well")], "failed"),
            ([ended(1, 3, ok=True, sentence="well"), ended(0, 2, ok=False, sentence="failed")], "failed"),
            ([ended(0, 1, ok=False, sentence="one"), ended(0, 2, ok=False, sentence="other")], "other"),
        ],
    )
    def test_the_last_session_is_the_one_to_tell_of(
        self, database: Database, account: str, sessions: list[EndedSession], told: str
    ) -> None:
        report(database, sessions=sessions)
        with database.reading() as session:
            assert session.get_one(LastSession, account).sentence == told

    def test_so_it_is_over_several_reports(self, database: Database, account: str) -> None:
        for one, told in (
            (ended(0, 2, ok=False, sentence="failed"), "failed"),
            (ended(1, 3, ok=True, sentence="well"), "failed"),
            (ended(4, 5, ok=True, sentence="well"), "well"),
        ):
            report(database, sessions=[one])
            with database.reading() as session:
                assert session.get_one(LastSession, account).sentence == told

    def test_nothing_is_remembered_of_an_account_that_is_gone(self, database: Database) -> None:
        report(database, sessions=[ended(0, 1, ok=True)])
        with database.reading() as session:
            assert session.get(LastSession, "ann_web") is None


class TestTidying:
    def test_what_is_too_old_or_belongs_to_nobody_goes(self, database: Database, account: str) -> None:
        old = [replace(TRANSFER, ended_at=NOW - timedelta(days=8))] * (BATCH + 1)
        report(database, transfers=[*old, TRANSFER], rows={"s": row(), "t": row("t", service_id="gone")})
        report(database, sessions=[ended(0, 1, ok=True), replace(ended(0, 1, ok=True), username="anonymous@a.example")])
        with database.transaction() as session:
            for name, heard in (("here", NOW), ("gone", NOW - timedelta(hours=2))):
                session.add(
                    ServiceRow(id=name, node="n", kind="ftp", pid=1, started_at=NOW, heartbeat_at=heard),
                )
        tidy(database, 7, now=NOW)
        with database.reading() as session:
            assert [one.ended_at for one in session.scalars(select(Transfer))] == [NOW]
            assert list(session.scalars(select(SessionRow.id))) == ["s"]
            assert list(session.scalars(select(LastSession.username))) == [account]

    def test_the_figures_of_homes_that_are_nobodys_go(self, database: Database, account: str) -> None:
        with database.transaction() as session:
            home = service.get_account(session, None, account).home_dir
            anonymous.change_access(session, None, "a.example", owner="ann", changes={"enabled": True})
            homes = (home, "/home/ann/a.example", "/home/ann/b.example", "/home/bob")
            store_usage(session, [(name, Figure(1, 1), NOW) for name in homes])
        tidy(database, 7, now=NOW)
        with database.reading() as session:
            assert set(session.scalars(select(Usage.home_dir))) == {home, "/home/ann/a.example"}
