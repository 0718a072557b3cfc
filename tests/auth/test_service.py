"""Users and keys, on both stores."""

from datetime import timedelta

import pytest

from wsp.auth import service
from wsp.auth.models import ApiKey
from wsp.database import Database, utc_now
from wsp.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from wsp.ftp.anonymous import change_access
from wsp.ftp.service import create_account


class TestIssueKey:
    def test_stores_a_hash_and_a_prefix_and_never_the_secret(self, database: Database) -> None:
        with database.transaction() as session:
            key, secret = service.issue_key(session, service.create_user(session, "ann"), name="k")
        stored = [str(getattr(key, column.name)) for column in ApiKey.__table__.columns]
        assert secret not in stored
        assert key.key_prefix == secret[:12]
        assert key.key_hash == service.hash_key(secret)

    def test_expires_after_its_days(self, database: Database) -> None:
        with database.transaction() as session:
            _, secret = service.issue_key(session, service.create_user(session, "ann"), name="k", expires_in=2)
        with database.reading() as session:
            now = utc_now()
            assert service.authenticate(session, secret, now + timedelta(days=1, hours=23))[0].username == "ann"
            with pytest.raises(Unauthorized):
                service.authenticate(session, secret, now + timedelta(days=2, seconds=1))


class TestCheckDelegation:
    def test_a_key_for_one_network_issues_for_less_of_it(self, database: Database) -> None:
        principal = self._principal(database, ip_whitelist=("10.0.0.0/8", "2001:db8::/32"))
        for addresses in (["10.1.0.0/16"], ["10.0.0.1", "2001:db8::1"]):
            service.check_delegation(principal, permissions=["all"], ip_whitelist=addresses, expires_in=0)
        for addresses in ([], ["11.0.0.0/8"], ["0.0.0.0/0"], ["10.0.0.1", "::1"]):
            with pytest.raises(Forbidden):
                service.check_delegation(principal, permissions=["all"], ip_whitelist=addresses, expires_in=0)

    @staticmethod
    def _principal(database: Database, *, ip_whitelist: tuple[str, ...]) -> service.Principal:
        with database.transaction() as session:
            user = service.create_user(session, "ann")
            _, secret = service.issue_key(session, user, name="k", ip_whitelist=ip_whitelist)
        with database.reading() as session:
            return service.authenticate(session, secret, utc_now())[0]


class TestUsers:
    @pytest.mark.parametrize("username", ["", "A", "a_b", "a/b", "..", "1a", "a b", "x" * 33, "ä", "a\n"])
    def test_a_name_that_would_not_do_as_a_folder_is_refused(self, database: Database, username: str) -> None:
        with pytest.raises(Invalid), database.transaction() as session:
            service.create_user(session, username)

    def test_a_name_in_use_is_a_conflict(self, database: Database) -> None:
        with database.transaction() as session:
            service.create_user(session, "ann")
        with pytest.raises(Conflict), database.transaction() as session:
            service.create_user(session, "ann")

    def test_the_last_active_admin_stays(self, database: Database) -> None:
        with database.transaction() as session:
            service.create_user(session, "root", role="admin")
            service.create_user(session, "ann")
        for attempt in (
            lambda session: service.change_user(session, "root", role="user"),
            lambda session: service.change_user(session, "root", status="disabled"),
            lambda session: service.remove_user(session, "root"),
        ):
            with pytest.raises(Conflict), database.transaction() as session:
                attempt(session)
        with database.reading() as session:
            root = service.get_user(session, "root")
            assert (root.role, root.status) == ("admin", "active")

    def test_an_owner_is_not_removed_while_they_own_something(self, database: Database) -> None:
        with database.transaction() as session:
            service.create_user(session, "root", role="admin")
            service.issue_key(session, service.create_user(session, "ann"), name="k")
            create_account(session, owner="ann", name="deploy", password_hash="x")
        with pytest.raises(Conflict), database.transaction() as session:
            service.remove_user(session, "ann")

    def test_a_domain_is_free_again_when_its_owner_is_removed(self, database: Database) -> None:
        with database.transaction() as session:
            for name, role in (("root", "admin"), ("ann", "user"), ("bob", "user")):
                service.create_user(session, name, role=role)
            change_access(session, "ann", "a.example", owner="ann", changes={"enabled": True})
        with database.transaction() as session:
            service.remove_user(session, "ann")
        with database.transaction() as session:
            assert change_access(session, "bob", "a.example", owner="bob", changes={"enabled": True}).owner == "bob"

    def test_removing_a_user_removes_their_keys(self, database: Database) -> None:
        with database.transaction() as session:
            service.create_user(session, "root", role="admin")
            _, secret = service.issue_key(session, service.create_user(session, "ann"), name="k")
        with database.transaction() as session:
            service.remove_user(session, "ann")
        with database.reading() as session:
            with pytest.raises(Unauthorized):
                service.authenticate(session, secret, utc_now())
            with pytest.raises(NotFound):
                service.get_user(session, "ann")
