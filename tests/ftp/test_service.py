"""What the services of FTP accounts and of anonymous access do with their rows, on both stores."""

import threading

from wsp.auth.service import create_user
from wsp.database import Database
from wsp.errors import NotFound
from wsp.ftp import anonymous, service
from wsp.ftp.models import AnonymousAccess


class TestCreate:
    def test_an_account_of_a_name_alone_holds_every_default(self, database: Database) -> None:
        with database.transaction() as session:
            create_user(session, "ann", role="user", email="")
            account = service.create_account(session, owner="ann", name="deploy", password_hash="x")
            assert (account.home_dir, account.credential_version, account.permissions) == ("/home/ann", 1, None)
            assert (account.enabled, account.allowed_ips, account.expires_at) == (True, [], None)


class TestChange:
    def test_a_new_password_moves_the_version_and_nothing_else_does(self, database: Database) -> None:
        with database.transaction() as session:
            create_user(session, "ann", role="user", email="")
            service.create_account(session, owner="ann", name="deploy", password_hash="x")
        for changes, version in (
            ({"password_hash": "y"}, 2),
            ({"quota_mb": 5, "domain": "example.com"}, 2),
            ({}, 2),
            ({"password_hash": "y"}, 3),
        ):
            with database.transaction() as session:
                account = service.change_account(session, None, "ann_deploy", changes)
                assert account.credential_version == version


class TestClaimOfADomain:
    def test_of_two_owners_at_once_one_gets_it(self, database: Database) -> None:
        owners = [f"owner{number}" for number in range(6)]
        with database.transaction() as session:
            for owner in owners:
                create_user(session, owner, role="user", email="")
        start = threading.Barrier(len(owners))
        outcomes: dict[str, str] = {}

        def claim(owner: str) -> None:
            start.wait()
            try:
                with database.transaction() as session:
                    changes = {"welcome_message": owner}
                    anonymous.change_access(session, owner, "example.com", owner=owner, changes=changes)
                outcomes[owner] = "claimed"
            except NotFound:
                outcomes[owner] = "not found"

        threads = [threading.Thread(target=claim, args=(owner,)) for owner in owners]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes.values()) == ["claimed"] + ["not found"] * (len(owners) - 1)
        with database.reading() as session:
            access = session.get_one(AnonymousAccess, "example.com")
        assert outcomes[access.owner] == "claimed"
        assert access.welcome_message == access.owner

    def test_one_owner_may_configure_it_twice_at_once(self, database: Database) -> None:
        with database.transaction() as session:
            create_user(session, "ann", role="user", email="")
        start = threading.Barrier(2)
        failures: list[BaseException] = []

        def change(name: str) -> None:
            start.wait()
            try:
                with database.transaction() as session:
                    anonymous.change_access(session, "ann", "example.com", owner="ann", changes={name: True})
            except NotFound as error:
                failures.append(error)

        threads = [threading.Thread(target=change, args=(name,)) for name in ("enabled", "allow_upload")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        with database.reading() as session:
            access = session.get_one(AnonymousAccess, "example.com")
        assert (access.enabled, access.allow_upload) == (True, True)
