"""Many accounts at once, on both stores."""

from pathlib import PurePosixPath
from typing import Any

import pytest
from sqlalchemy import func, select

from wsp.auth.service import create_user
from wsp.database import Database, utc_now
from wsp.ftp import bulk, service
from wsp.ftp.bulk import Result
from wsp.ftp.models import FtpAccount
from wsp.passwords import verify_password
from wsp.webhooks.models import Delivery, Webhook

FILES = PurePosixPath("/srv/files")
HASH = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"


@pytest.fixture(autouse=True)
def owners(database: Database) -> None:
    """Two users, and a webhook of the first one."""
    now = utc_now()
    with database.transaction() as session:
        for name in ("ann", "bob"):
            create_user(session, name)
        session.add(
            Webhook(id="w", owner="ann", url="https://x/", events=["*"], secret="s", created_at=now, updated_at=now)
        )


def import_json(database: Database, *accounts: Any, **options: bool) -> list[Result]:
    candidates = bulk.from_json(accounts, lambda owner: owner or "ann")
    prepared = bulk.prepare(candidates, dry_run=options.get("dry_run", False))
    with database.transaction() as session:
        return bulk.import_accounts(session, prepared, **options)


def statuses(results: list[Result]) -> list[str]:
    return [result.status for result in results]


def stored(database: Database) -> dict[str, FtpAccount]:
    with database.reading() as session:
        return {account.username: account for account in session.scalars(select(FtpAccount))}


def announced(database: Database) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(Delivery)) or 0


def account(name: str, **fields: Any) -> dict[str, Any]:
    return {"username": name, "password_hash": HASH, **fields}


MIXED = (
    account("one", quota_mb=5),
    account("x"),
    account("two", quota_mb=-1),
    account("three", owner="nobody"),
    account("four", owner="bob", home_subdir="sites/four"),
    account("one"),
    "five",
    account("six", colour="red"),
    {"username": "seven", "password_hash": "plain"},
)


class TestImport:
    def test_makes_what_is_valid_and_says_what_is_wrong_with_the_rest(self, database: Database) -> None:
        results = import_json(database, *MIXED)
        assert [result.line for result in results] == list(range(1, 10))
        assert statuses(results) == ["created", *["failed"] * 3, "created", *["failed"] * 4]
        for number, sentence in (
            (1, "Username must be at least 2 characters"),
            (2, "Quota must be at least 0"),
            (3, "Owner 'nobody' does not exist"),
            (5, "The same account as in line 1"),
            (6, "An account must be an object"),
            (7, "Unknown field 'colour'"),
            (8, "Password hash must be in one of these formats"),
        ):
            assert results[number].message.startswith(sentence)
        accounts = stored(database)
        assert set(accounts) == {"ann_one", "bob_four"}
        assert accounts["ann_one"].quota_mb == 5
        assert accounts["bob_four"].home_dir == "/home/bob/sites/four"
        assert announced(database) == 1

    def test_leaves_what_exists_as_it_is(self, database: Database) -> None:
        import_json(database, account("one", quota_mb=5))
        (again,) = import_json(database, account("one", quota_mb=6))
        assert (again.status, again.message) == ("skipped", "FTP account 'ann_one' already exists")
        assert stored(database)["ann_one"].quota_mb == 5

    def test_hashes_passwords(self, database: Database) -> None:
        import_json(database, {"username": "one", "password": "S3cure•pass"})
        assert verify_password("S3cure•pass", stored(database)["ann_one"].password_hash) == (True, None)

    def test_of_nothing_does_nothing(self, database: Database) -> None:
        assert import_json(database) == []


class TestDryRun:
    def test_says_the_same_and_makes_nothing(self, database: Database) -> None:
        import_json(database, account("old"))
        tried = import_json(database, *MIXED, account("old"), {"username": "new", "password": "pw"}, dry_run=True)
        assert set(stored(database)) == {"ann_old"}
        assert announced(database) == 1
        made = import_json(database, *MIXED, account("old"), {"username": "new", "password": "pw"})
        assert statuses(tried) == [status.replace("created", "would_create") for status in statuses(made)]
        assert [result.message for result in tried] == [result.message for result in made]


class TestAtomic:
    def test_makes_none_when_one_fails(self, database: Database) -> None:
        results = import_json(database, account("one"), account("x"), account("two"), atomic=True)
        assert statuses(results) == ["skipped", "failed", "skipped"]
        assert results[0].message == "Not created, because others failed"
        assert stored(database) == {}
        assert announced(database) == 0

    def test_makes_all_when_none_fails(self, database: Database) -> None:
        import_json(database, account("one"))
        results = import_json(database, account("one"), account("two"), atomic=True)
        assert statuses(results) == ["skipped", "created"]
        assert set(stored(database)) == {"ann_one", "ann_two"}


class TestPurePw:
    def test_counts_the_lines_of_the_file(self, database: Database) -> None:
        text = (
            f"# exported\r\n\r\njoe:{HASH}:1:1::/home/ftp/joe/./::::::::::::\r\nnonsense\nann_eve:x:1:1::/a" + ":" * 12
        )
        prepared = bulk.prepare(bulk.from_purepw(text, "ann", FILES), dry_run=False)
        with database.transaction() as session:
            joe, nonsense, eve = bulk.import_accounts(session, prepared)
        assert (joe.line, joe.username, joe.status) == (3, "ann_joe", "created")
        assert joe.message == "its home /home/ftp/joe becomes /home/ann/home/ftp/joe: move the files there"
        assert (nonsense.line, nonsense.status) == (4, "failed")
        assert (eve.line, eve.status) == (5, "failed")
        assert stored(database)["ann_joe"].password_hash == HASH


class TestExport:
    def test_is_read_back_as_it_was(self, database: Database) -> None:
        full = account(
            "full",
            owner="bob",
            domain="example.com",
            quota_mb=7,
            read_only=True,
            enabled=False,
            allowed_ips=["192.0.2.0/24", "2001:db8::1"],
            require_tls=True,
            expires_at="2030-01-31T00:00:00+07:00",
            max_sessions=3,
            upload_kbps=100,
            download_kbps=200,
            permissions=[{"folder": "/", "allow": ["list"]}, {"folder": "/in", "allow": []}],
            home_subdir="a/b",
            description="Jürgen's",
        )
        import_json(database, full, account("ann_plain"))
        before = stored(database)
        assert set(before) == {"bob_full", "ann_ann_plain"}
        with database.reading() as session:
            exported = [bulk.as_json(row) for row in bulk.accounts_to_export(session, None)]
        with database.transaction() as session:
            for username in before:
                service.delete_account(session, None, username)
        assert statuses(import_json(database, *exported)) == ["created", "created"]
        columns = [c.name for c in FtpAccount.__table__.columns if c.name not in ("id", "created_at", "updated_at")]
        for username, row in stored(database).items():
            assert [getattr(row, name) for name in columns] == [getattr(before[username], name) for name in columns]

    def test_is_of_one_owner_if_so_asked(self, database: Database) -> None:
        import_json(database, account("one"), account("two", owner="bob"))
        with database.reading() as session:
            assert [row.username for row in bulk.accounts_to_export(session, "bob")] == ["bob_two"]
