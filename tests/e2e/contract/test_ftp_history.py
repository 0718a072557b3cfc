"""Live sessions, transfers and the last session over the API, while real clients log in to the same server."""

import ftplib
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

PASSWORD = "S3cure•pass"
SESSION_KEYS = [
    "id",
    "username",
    "owner",
    "address",
    "client",
    "tls",
    "started_at",
    "idle_seconds",
    "command",
    "direction",
    "file",
    "bytes",
    "rate",
    "uploads",
    "downloads",
    "failures",
    "bytes_uploaded",
    "bytes_downloaded",
]


@pytest.fixture
def account(ann: Any) -> str:
    """An account of ann's."""
    answer = ann("POST", "/ftp/", {"username": "deploy", "password": PASSWORD})
    assert answer.status_code == 201
    return str(answer.json()["username"])


@pytest.fixture
def log_in(server: Any) -> Iterator[Callable[[str], ftplib.FTP]]:
    """Opens a session."""
    clients: list[ftplib.FTP] = []

    def opened(username: str) -> ftplib.FTP:
        client = ftplib.FTP()
        clients.append(client)
        client.connect("127.0.0.1", server.ftp_port, timeout=30)
        client.login(username, PASSWORD)
        return client

    yield opened
    for client in clients:
        client.close()


@pytest.fixture
def sessions_of(wait_until: Callable[..., Any]) -> Callable[[Any, int], list[dict[str, Any]]]:
    """The sessions that a caller sees, once there are so many."""

    def seen(caller: Any, count: int) -> list[dict[str, Any]]:
        def sessions() -> list[dict[str, Any]] | None:
            found: list[dict[str, Any]] = caller("GET", "/ftp/sessions").json()["sessions"]
            return found if len(found) == count else None

        wait_until(lambda: sessions() is not None, f"{count} sessions")
        return sessions() or []

    return seen


class TestSessions:
    def test_the_owner_sees_them_and_nobody_else_does(
        self, ann: Any, admin: Any, make_caller: Any, account: str, log_in: Any, sessions_of: Any
    ) -> None:
        log_in(account).sendcmd("CLNT tester")
        (shown,) = sessions_of(ann, 1)
        assert list(shown) == SESSION_KEYS
        assert (shown["username"], shown["owner"], shown["address"]) == (account, ann.username, "127.0.0.1")
        bob = make_caller()
        assert bob("GET", "/ftp/sessions").json() == {"sessions": [], "total": 0}
        missing = bob("DELETE", f"/ftp/sessions/{shown['id']}")
        assert (missing.status_code, missing.json()["error"]) == (404, "FTP session not found")
        of_ann = admin("GET", f"/ftp/sessions?owner={ann.username}&search={account}&limit=1")
        assert [session["id"] for session in of_ann.json()["sessions"]] == [shown["id"]]
        assert of_ann.headers["X-Total-Count"] == "1"

    def test_one_that_is_deleted_is_gone_within_a_second(
        self, ann: Any, account: str, log_in: Any, sessions_of: Any
    ) -> None:
        client = log_in(account)
        (shown,) = sessions_of(ann, 1)
        answer = ann("DELETE", f"/ftp/sessions/{shown['id']}")
        answered = time.monotonic()
        assert (answer.status_code, answer.json()) == (200, {"message": "FTP session ended successfully"})
        with pytest.raises(ftplib.error_temp, match="421 The session was ended"):
            client.voidresp()
        ended = time.monotonic() - answered
        sessions_of(ann, 0)
        gone = time.monotonic() - answered
        print(f"the session ended {ended:.3f} s after the answer, its row {gone:.3f} s")  # noqa: T201
        assert gone < 5.0
        assert ann("DELETE", f"/ftp/sessions/{shown['id']}").status_code == 404

    def test_a_change_of_the_account_ends_them(self, ann: Any, account: str, log_in: Any, sessions_of: Any) -> None:
        for method, path, body in (
            ("POST", f"/ftp/{account}/toggle", None),
            ("PUT", f"/ftp/{account}", {"password": PASSWORD}),
            ("PUT", f"/ftp/{account}/ip-restrictions", {"allowed_ips": ["203.0.113.1"]}),
        ):
            ann("PUT", f"/ftp/{account}", {"enabled": True, "allowed_ips": []})
            client = log_in(account)
            assert ann(method, path, body).status_code == 200
            answered = time.monotonic()
            with pytest.raises(ftplib.error_temp, match="421"):
                client.voidresp()
            print(f"ended {time.monotonic() - answered:.3f} s after the answer")  # noqa: T201


class TestTransfers:
    def test_they_are_listed_newest_first_and_filtered(
        self, ann: Any, account: str, log_in: Any, wait_until: Any, make_caller: Any
    ) -> None:
        path = f"/ftp/{account}/transfers"
        assert ann("GET", path).json() == {"transfers": [], "total": 0}
        client = log_in(account)
        for name in ("a", "b"):
            client.storbinary(f"STOR {name}", io.BytesIO(b"12345"))
        client.retrbinary("RETR a", lambda _: None)
        with pytest.raises(ftplib.error_perm):
            client.retrbinary("RETR missing", lambda _: None)
        wait_until(lambda: ann("GET", path).json()["total"] == 4, "four transfers")

        everything = ann("GET", path).json()["transfers"]
        assert [(t["file"], t["direction"], t["result"]) for t in everything] == [
            ("/missing", "download", "failed"),
            ("/a", "download", "completed"),
            ("/b", "upload", "completed"),
            ("/a", "upload", "completed"),
        ]
        assert everything[0]["reason"] == "No such file or directory."
        assert list(everything[0]) == [
            "id",
            "session_id",
            "file",
            "direction",
            "bytes",
            "started_at",
            "ended_at",
            "duration_ms",
            "result",
            "reason",
            "checksum",
            "address",
            "tls",
        ]

        def files(query: str) -> list[str]:
            return [transfer["file"] for transfer in ann("GET", f"{path}?{query}").json()["transfers"]]

        assert files("direction=upload") == ["/b", "/a"]
        assert files("result=failed") == ["/missing"]
        assert files("search=B") == ["/b"]
        assert files("limit=1&offset=1") == ["/a"]
        assert files("since=2001-01-01T00:00:00Z&until=2001-01-02T00:00:00+07:00") == []
        assert len(files("since=2001-01-01T00:00:00Z")) == 4
        part = ann("GET", f"{path}?limit=3")
        assert (part.json()["total"], 'rel="next"' in part.headers["Link"]) == (4, True)
        assert make_caller()("GET", path).status_code == 404

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("direction=sideways", "direction"),
            ("result=maybe", "result"),
            ("since=yesterday", "since"),
            ("limit=0", "limit"),
        ],
    )
    def test_a_filter_that_makes_no_sense_is_named(self, ann: Any, account: str, query: str, field: str) -> None:
        answer = ann("GET", f"/ftp/{account}/transfers?{query}")
        assert (answer.status_code, answer.json()["details"][0]["field"]) == (400, field)


class TestLastSession:
    def test_it_says_why_the_last_session_failed(
        self, ann: Any, make_caller: Any, account: str, log_in: Any, wait_until: Any
    ) -> None:
        path = f"/ftp/{account}/sessions/last"
        never = ann("GET", path)
        assert (never.status_code, never.json()["error"]) == (404, "There was no session of this FTP account yet")
        assert make_caller()("GET", path).json()["error"] == "FTP account not found"

        client = log_in(account)
        wait_until(lambda: ann("GET", path).status_code == 200, "the live session")
        live = ann("GET", path).json()
        assert (live["live"], live["ok"], live["ended_at"], live["sentence"]) == (
            True,
            True,
            None,
            "The session is still going on.",
        )
        with pytest.raises(ftplib.error_perm):
            client.storbinary("STOR no/such/folder", io.BytesIO(b"x"))
        client.quit()
        wait_until(lambda: not ann("GET", path).json()["live"], "the end of it")
        ended = ann("GET", path).json()
        assert list(ended) == [
            "username",
            "ok",
            "sentence",
            "live",
            "started_at",
            "ended_at",
            "address",
            "client",
            "tls",
            "uploads",
            "downloads",
            "failures",
            "bytes_uploaded",
            "bytes_downloaded",
        ]
        assert (ended["ok"], ended["failures"]) == (False, 1)
        assert ended["sentence"] == "The upload of /no/such/folder failed: no such file or directory."

    def test_a_namesake_of_a_deleted_account_starts_anew(
        self, ann: Any, account: str, log_in: Any, wait_until: Any
    ) -> None:
        client = log_in(account)
        client.storbinary("STOR f", io.BytesIO(b"x"))
        client.quit()
        wait_until(lambda: ann("GET", f"/ftp/{account}/transfers").json()["total"] == 1, "the transfer")
        ann("DELETE", f"/ftp/{account}")
        assert ann("GET", f"/ftp/{account}/transfers").status_code == 404
        assert ann("POST", "/ftp/", {"username": "deploy", "password": PASSWORD}).status_code == 201
        assert ann("GET", f"/ftp/{account}/transfers").json()["total"] == 0
        assert ann("GET", f"/ftp/{account}/sessions/last").status_code == 404
