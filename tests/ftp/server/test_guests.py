"""Guests that misbehave: bans, limits and timeouts, over several processes, on both stores where it matters."""

import socket
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsp.auth.models import User
from wsp.database import Database, utc_now
from wsp.ftp import guests
from wsp.ftp.admission import Policy
from wsp.ftp.guests import BanRules
from wsp.ftp.models import FtpAccount, Guest
from wsp.ftp.server.authenticator import Attempt, Authenticator, Granted, Refused, Unverified
from wsp.ftp.server.bans import Bans
from wsp.ftp.server.scorer import Scorer
from wsp.paging import Page
from wsp.passwords import hash_password

pytestmark = pytest.mark.e2e

WRONG = "530 Login incorrect.\r\n"
NOT_NOW = "421 Logins cannot be checked right now, try again shortly.\r\n"
BANNED = "421 Too many failed logins from your address, try again in 5 minutes.\r\n"
THERE = "127.0.0.66"  # 127.0.0.1 is exempt by default
on_sqlite = pytest.mark.parametrize("store", ["sqlite"], indirect=True)


def guess(raw: Any, server: Any, username: str, times: int, source: str = THERE) -> None:
    """Wrong passwords, each on a connection of its own, at the same time."""
    clients = [raw(server, source) for _ in range(times)]
    for client in clients:
        client.ask(f"USER {username}")
        client.send(b"PASS wrong\r\n")
    for client in clients:
        # Those that are still waiting for their answer when the ban comes hear of the ban.
        assert client.reply() in (WRONG, BANNED)


def greetings(raw: Any, server: Any, source: str = THERE, times: int = 12) -> set[str]:
    """What that many new connections are greeted with; the kernel spreads them over the processes."""
    return {raw(server, source).greeting for _ in range(times)}


def is_banned(raw: Any, server: Any, source: str = THERE) -> bool:
    return all("421 Too many failed logins" in greeting for greeting in greetings(raw, server, source))


def is_welcome(raw: Any, server: Any, source: str = THERE) -> bool:
    return all(greeting.startswith("220") for greeting in greetings(raw, server, source))


class TestBan:
    def test_holds_on_every_process_and_after_a_restart_until_it_is_lifted(
        self, new_server: Callable[..., Any], raw: Any, until: Any, database: Database
    ) -> None:
        server = new_server(WSP_FTP_BAN_FAILURES="3").start().start()
        account = server.account()
        inside, waiting = raw(server, THERE).login(account), raw(server, THERE)
        guess(raw, server, account.username, 3)
        until(lambda: is_banned(raw, server), "the ban on both processes")
        assert waiting.reply() == BANNED
        assert waiting.reply() == ""
        assert inside.ask("NOOP").startswith("200")
        assert raw(server).login(account).ask("NOOP").startswith("200")
        assert raw(server, "127.0.0.67").login(account).ask("NOOP").startswith("200")
        with database.reading() as session:
            (ban,), _ = guests.list_bans(session, Page(), utc_now())
        assert ban.reason == f"3 failed logins, the last one for the account {account.username}"

        server.stop()
        server.start().start()
        assert greetings(raw, server) == {BANNED}
        with database.transaction() as session:
            guests.lift_ban(session, THERE, utc_now())
        until(lambda: is_welcome(raw, server), "the end of the ban on both processes")
        assert raw(server, THERE).login(account).ask("NOOP").startswith("200")

    def test_does_not_come_of_failures_that_a_right_password_took_back(
        self, new_server: Callable[..., Any], raw: Any, until: Any, database: Database
    ) -> None:
        server = new_server(WSP_FTP_BAN_FAILURES="3").start()
        account = server.account()

        def score() -> float:
            with database.reading() as session:
                guest = session.get(Guest, ("address", THERE))
                return 0.0 if guest is None else guest.score

        guess(raw, server, account.username, 2)
        until(lambda: score() > 1, "the score")
        raw(server, THERE).login(account)
        until(lambda: score() == 0, "the score to be taken back")
        guess(raw, server, account.username, 2)
        until(lambda: score() > 1, "the score")
        assert is_welcome(raw, server)

    @on_sqlite
    def test_never_meets_an_exempt_network(self, new_server: Callable[..., Any], raw: Any, store: str) -> None:
        server = new_server(WSP_FTP_BAN_FAILURES="2", WSP_FTP_BAN_EXEMPT="127.0.0.64/26").start()
        account = server.account()
        guess(raw, server, account.username, 4)
        guess(raw, server, account.username, 4, source="127.0.0.1")
        assert is_banned(raw, server, "127.0.0.1")
        assert raw(server, THERE).login(account)

    @on_sqlite
    def test_comes_of_every_reason_that_reads_the_same(
        self, new_server: Callable[..., Any], raw: Any, until: Any, store: str
    ) -> None:
        server = new_server(WSP_FTP_BAN_FAILURES="4").start()
        disabled, elsewhere = server.account(enabled=False), server.account(allowed_ips=["203.0.113.0/24"])
        for username, password in (
            ("nobody_here", "x"),
            (disabled.username, disabled.password),
            (elsewhere.username, elsewhere.password),
        ):
            client = raw(server, THERE)
            client.ask(f"USER {username}")
            assert client.ask(f"PASS {password}") == WRONG
        guess(raw, server, "nobody_here", 1)
        until(lambda: is_banned(raw, server), "the ban")

    @on_sqlite
    def test_does_not_come_when_it_is_off(self, new_server: Callable[..., Any], raw: Any, store: str) -> None:
        server = new_server(WSP_FTP_BAN_FAILURES="0").start()
        guess(raw, server, "nobody_here", 12)
        assert is_welcome(raw, server)


class TestSessionLimits:
    @on_sqlite
    def test_of_the_machine(self, new_server: Callable[..., Any], raw: Any, until: Any, store: str) -> None:
        server = new_server(WSP_FTP_MAX_SESSIONS="4").start().start()
        clients = [raw(server, f"127.0.0.{number}") for number in range(10, 14)]
        assert greetings(raw, server, times=6) == {"421 Too many sessions, try again later.\r\n"}
        clients[0].ask("QUIT")
        until(lambda: raw(server).greeting.startswith("220"), "a free seat")

    @on_sqlite
    def test_of_an_address(self, new_server: Callable[..., Any], raw: Any, store: str) -> None:
        server = new_server(WSP_FTP_MAX_SESSIONS_PER_ADDRESS="2").start().start()
        held = [raw(server, THERE), raw(server, THERE)]
        assert all(client.ask("NOOP").startswith("200") for client in held)
        too_many = "421 Too many sessions from your address, close one or try again later.\r\n"
        assert greetings(raw, server, times=6) == {too_many}
        assert raw(server, "127.0.0.67").greeting.startswith("220")
        others = [raw(server) for _ in range(4)]  # exempt
        assert all(client.greeting.startswith("220") for client in others)

    def test_of_an_account(self, new_server: Callable[..., Any], raw: Any, until: Any) -> None:
        server = new_server(WSP_FTP_MAX_SESSIONS_PER_ACCOUNT="3").start().start()
        account, other = server.account(max_sessions=2), server.account(max_sessions=9)

        def login(who: Any) -> str:
            client = raw(server)
            client.ask(f"USER {who.username}")
            answer: str = client.ask(f"PASS {who.password}")
            return answer

        held = [raw(server).login(account) for _ in range(2)]
        too_many = "421 This account has too many sessions, close one or try again later.\r\n"
        assert {login(account) for _ in range(4)} == {too_many}
        assert [raw(server).login(other) for _ in range(3)]
        assert login(other) == too_many
        assert "as many sessions as it may have at once: 2" in server.log
        held[0].ask("REIN")  # RFC 959: logged out, and still connected
        assert raw(server).login(account)
        held[1].socket.close()
        held[1].file.close()
        until(lambda: login(account).startswith("230"), "a place for the account")

    @on_sqlite
    def test_leave_no_ghosts_of_a_process_that_was_killed(
        self, new_server: Callable[..., Any], raw: Any, until: Any, store: str
    ) -> None:
        server = new_server(WSP_FTP_MAX_SESSIONS="3", WSP_FTP_BAN_EXEMPT="").start()
        account = server.account(max_sessions=3)
        assert [raw(server).login(account) for _ in range(3)]
        server.processes[0].kill()
        server.processes[0].wait()
        server.start()
        assert [raw(server).login(account) for _ in range(3)]

    @on_sqlite
    def test_of_an_anonymous_domain(self, new_server: Callable[..., Any], raw: Any, store: str) -> None:
        server = new_server(WSP_FTP_MAX_SESSIONS_PER_ACCOUNT="1").start()
        server.anonymous("one.example", max_connections=2)

        def login() -> str:
            client = raw(server)
            client.ask("USER anonymous@one.example")
            answer: str = client.ask("PASS me@")
            return answer

        assert [login()[:3] for _ in range(3)] == ["230", "230", "421"]


class TestTlsRequired:
    @on_sqlite
    def test_a_right_password_in_clear_text_is_told_how(
        self, new_server: Callable[..., Any], raw: Any, connect: Any, store: str
    ) -> None:
        server = new_server().start()
        account = server.account(require_tls=True)
        client = raw(server)
        client.ask(f"USER {account.username}")
        answer = client.ask(f"PASS {account.password}")
        assert answer == "530 This login needs TLS: use explicit FTPS (AUTH TLS), and log in again.\r\n"
        client.ask(f"USER {account.username}")
        assert client.ask("PASS wrong") == WRONG
        assert connect(server, account, tls=True).pwd() == "/"
        assert "The account needs TLS" in server.log


class TestExpired:
    @on_sqlite
    def test_an_expired_account_is_refused_like_a_wrong_password(
        self, new_server: Callable[..., Any], raw: Any, store: str
    ) -> None:
        server = new_server().start()
        account = server.account(expires_at=utc_now())
        client = raw(server)
        client.ask(f"USER {account.username}")
        assert client.ask(f"PASS {account.password}") == WRONG
        assert "The account expired at" in server.log


class TestLoginTimeout:
    @on_sqlite
    def test_who_does_not_log_in_in_time_is_out(
        self, new_server: Callable[..., Any], raw: Any, until: Any, store: str
    ) -> None:
        server = new_server(WSP_FTP_LOGIN_TIMEOUT="5", WSP_FTP_COMMANDS_BEFORE_LOGIN="1000").start()
        account = server.account()
        inside, late, stalled, logged_out = raw(server).login(account), raw(server), raw(server), raw(server)
        assert stalled.ask("AUTH TLS").startswith("234")  # and then no handshake
        logged_out.login(account).ask("REIN")
        began = time.monotonic()
        while time.monotonic() - began < 2:
            assert late.ask("NOOP").startswith("200")  # it is not about being idle
        late.socket.settimeout(30)
        assert late.reply() == "421 You did not log in in time.\r\n"
        assert late.reply() == ""
        assert stalled.reply() == ""
        assert logged_out.reply().startswith("421")
        assert inside.ask("NOOP").startswith("200")


class TestCommandsBeforeLogin:
    @on_sqlite
    def test_are_slowed_down_and_none_is_lost(self, new_server: Callable[..., Any], raw: Any, store: str) -> None:
        server = new_server(WSP_FTP_COMMANDS_BEFORE_LOGIN="10").start()
        account, client = server.account(), raw(server)
        began = time.monotonic()
        client.send(b"NOOP\r\n" * 35)
        assert {client.reply() for _ in range(35)} == {"200 I successfully did nothing'.\r\n"}
        assert time.monotonic() - began >= 2.5
        client.login(account)
        client.send(b"NOOP\r\n" * 500)
        assert all(client.reply().startswith("200") for _ in range(500))


@pytest.fixture
def authenticator(database: Database, tmp_path: Path) -> Authenticator:
    """The checks of logins without a server; there is an account `ann_web` with the password `right`."""
    now = utc_now()
    with database.transaction() as session:
        session.add(User(username="ann", role="user", status="active", created_at=now, updated_at=now))
        session.flush()
        account = FtpAccount(username="ann_web", owner="ann", home_dir="/home/ann", created_at=now, updated_at=now)
        account.password_hash = hash_password("right")
        session.add(account)
    return Authenticator(database, tmp_path, Policy(), Scorer(database, Bans([]), BanRules(0, 1), lambda: None))


class TestVerify:
    def test_a_password_that_was_changed_meanwhile_is_not_let_in(
        self, authenticator: Authenticator, database: Database
    ) -> None:
        attempt = Attempt("ann_web", "right", "192.0.2.1", False)
        unverified = authenticator.look_up(attempt)
        assert isinstance(unverified, Unverified)
        with database.transaction() as session:
            account = session.query(FtpAccount).one()
            account.password_hash, account.credential_version = hash_password("new"), 2
        verdict = authenticator.verify(attempt, unverified)
        assert isinstance(verdict, Refused)
        assert verdict.reply == WRONG.strip()
        assert isinstance(authenticator.look_up(attempt), Unverified)  # nor is it remembered

    def test_many_first_logins_at_once_cost_one_hash(self, authenticator: Authenticator) -> None:
        attempt = Attempt("ann_web", "right", "192.0.2.1", False)
        waiting = [authenticator.look_up(attempt) for _ in range(5)]
        seconds = []
        for unverified in waiting:
            assert isinstance(unverified, Unverified)
            began = time.thread_time()
            granted = authenticator.verify(attempt, unverified)
            seconds.append(time.thread_time() - began)
            assert isinstance(granted, Granted)
            granted.jail.close()
        assert sum(seconds[1:]) < seconds[0]


class TestUnknownUser:
    @on_sqlite
    def test_costs_the_same_as_a_wrong_password(self, authenticator: Authenticator, store: str) -> None:
        names = {
            "known": "ann_web",
            "unknown": "nobody_here",
            "bad bytes": "ann\udcff_web",
            "a NUL": "ann_\0web",
        }
        passwords = {"plain": "wrong", "bad bytes": "\udcff", "a NUL": "a\0b"}
        seconds: dict[tuple[str, str], list[float]] = {(n, p): [] for n in names for p in passwords}
        for _ in range(12):
            for (name, password), taken in seconds.items():
                attempt = Attempt(names[name], passwords[password], "192.0.2.1", False)
                began = time.thread_time()  # of the processor: what else the machine does is no part of it
                unverified = authenticator.look_up(attempt)
                assert isinstance(unverified, Unverified)
                authenticator.verify(attempt, unverified)
                taken.append(time.thread_time() - began)
        medians = {kind: statistics.median(taken) for kind, taken in seconds.items()}
        assert max(medians.values()) < 2 * min(medians.values()), medians

    @on_sqlite
    def test_is_answered_after_the_same_time(self, new_server: Callable[..., Any], raw: Any, store: str) -> None:
        server = new_server().start()
        account = server.account()
        # A panel's hash is checked at another speed than ours: that must not show either.
        quick = server.account(password_hash="$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/")
        names = [account.username, quick.username, "nobody_here", "anonymous@no.example", b"\xff\xfe"]
        clients = [(raw(server), name) for name in names for _ in range(4)]
        asked: dict[Any, float] = {}
        for client, name in clients:
            client.ask(b"USER " + (name.encode() if isinstance(name, str) else name))
            asked[client] = time.monotonic()
            client.send(b"PASS wrong\r\n")
        for client, _ in clients:
            assert client.reply().startswith("530")
            assert time.monotonic() - asked[client] >= 1


class TestStorm:
    @on_sqlite
    def test_of_200_addresses_leaves_those_who_are_known_alone(
        self, new_server: Callable[..., Any], raw: Any, store: str
    ) -> None:
        server = new_server().start()
        account = server.account()
        bystander = raw(server).login(account)
        answers: list[str] = []

        def attack(number: int) -> None:
            with (
                socket.create_connection(
                    ("127.0.0.1", server.port), 60, source_address=(f"127.0.{number // 100 + 1}.{number % 100 + 1}", 0)
                ) as sock,
                sock.makefile("rb") as file,
            ):
                file.readline()
                sock.sendall(b"USER nobody_here\r\n")
                file.readline()
                sock.sendall(b"PASS wrong\r\n")
                answers.append(file.readline().decode())

        threads = [threading.Thread(target=attack, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        meanwhile = 0
        while any(thread.is_alive() for thread in threads):
            assert bystander.ask("NOOP").startswith("200")
            # Its password is known, so it does not wait behind the hashes of the storm.
            known = raw(server).login(account)
            known.ask("QUIT")
            meanwhile += len(answers) < 200
        for thread in threads:
            thread.join()
        assert len(answers) == 200
        assert WRONG in answers
        assert set(answers) <= {WRONG, NOT_NOW}
        assert meanwhile > 10
