"""Short-lived credentials and releases over the API, with sessions on the FTP server of the same `wsp serve`."""

import ftplib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+07:00")
CREDENTIAL_KEYS = ["id", "folder", "allowed_ips", "description", "created_at", "expires_at", "last_used_at"]


@pytest.fixture
def account(ann: Any) -> str:
    """The path of an account of `ann`."""
    created = ann("POST", "/ftp", {"username": "deploy", "password": "S3cure•pass"}).json()
    return f"/ftp/{created['username']}"


@pytest.fixture
def login(server: Any) -> Iterator[Callable[..., ftplib.FTP]]:
    """Opens a session of an account on the server."""
    with ExitStack() as stack:

        def login(account: str, password: str = "S3cure•pass") -> ftplib.FTP:
            client = ftplib.FTP()
            stack.callback(client.close)
            client.connect("127.0.0.1", server.ftp_port, timeout=30)
            client.login(account.removeprefix("/ftp/"), password)
            return client

        yield login


def put(client: ftplib.FTP, name: str, content: bytes) -> None:
    client.storbinary(f"STOR {name}", io.BytesIO(content))


class TestCredentials:
    def test_from_issue_to_revocation(self, ann: Any, account: str, server: Any, login: Any) -> None:
        body = {"folder": "/public_html", "address": "127.0.0.1", "expires_in": 600, "description": "CI"}
        answer = ann("POST", f"{account}/credentials", body)
        assert answer.status_code == 201
        issued = answer.json()
        assert list(issued) == ["message", "username", "password", "expires_at", "credential"]
        assert re.fullmatch(r"wspftp_[0-9a-f]{48}", issued["password"])
        credential = issued["credential"]
        assert list(credential) == CREDENTIAL_KEYS
        assert (credential["folder"], credential["allowed_ips"], credential["description"]) == (
            "/public_html",
            ["127.0.0.1"],
            "CI",
        )
        assert TIME.fullmatch(credential["expires_at"])
        assert credential["last_used_at"] is None
        client = login(account, issued["password"])
        put(client, "page", b"1")
        assert login(account).nlst() == ["public_html"]
        listed = ann("GET", f"{account}/credentials")
        assert listed.headers["X-Total-Count"] == "1"
        assert listed.json()["total"] == 1
        assert TIME.fullmatch(listed.json()["credentials"][0]["last_used_at"])
        assert issued["password"] not in listed.text
        assert ann("DELETE", f"{account}/credentials/{credential['id']}").json() == {
            "message": "Credential revoked successfully"
        }
        with pytest.raises(ftplib.error_perm, match="530"):
            login(account, issued["password"])
        assert ann("DELETE", f"{account}/credentials/{credential['id']}").status_code == 404

    def test_its_defaults(self, ann: Any, account: str) -> None:
        credential = ann("POST", f"{account}/credentials", {}).json()["credential"]
        assert (credential["folder"], credential["allowed_ips"], credential["description"]) == ("/", [], "")

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            ({"folder": "site"}, "Folder must begin with '/'"),
            ({"folder": "/a/../b"}, "Folder must not have empty parts, '.' or '..' in it"),
            ({"folder": "/.wsp-staging-1"}, "Folder must not have names in it that begin with .wsp-"),
            ({"expires_in": 59}, "Expires in must be at least 60"),
            ({"expires_in": 604801}, "Expires in must be at most 604800"),
            ({"expires_in": True}, "Expires in must be an integer"),
            ({"address": "here"}, "Address must be an address or a network"),
            ({"address": "10.0.0.1", "allowed_ips": []}, "Address cannot be given together with allowed IPs"),
            ({"description": "x\n"}, "Description must not contain control characters"),
            ({"password": "mine"}, "Unknown field 'password'"),
        ],
    )
    def test_bad_input(self, ann: Any, account: str, body: dict[str, Any], sentence: str) -> None:
        answer = ann("POST", f"{account}/credentials", body)
        assert answer.status_code == 400
        assert answer.json()["message"].startswith(sentence)
        assert answer.json()["details"][0]["field"] == next(iter(body))

    def test_of_somebody_else(self, ann: Any, account: str, make_caller: Any) -> None:
        other = make_caller()
        id = ann("POST", f"{account}/credentials", {}).json()["credential"]["id"]
        for method, path in (("GET", ""), ("POST", ""), ("DELETE", f"/{id}")):
            answer = other(method, f"{account}/credentials{path}", {} if method == "POST" else None)
            assert (answer.status_code, answer.json()["message"]) == (404, "FTP account not found")
        assert ann("GET", f"{account}/credentials").json()["total"] == 1


class TestReleases:
    def test_from_staging_to_rollback(self, ann: Any, account: str, server: Any, login: Any) -> None:
        client = login(account)
        client.mkd("public_html")
        put(client, "public_html/page", b"one")
        client.sendcmd("SITE STAGE public_html")
        put(client, "public_html/page", b"two")
        path = f"{account}/releases?folder=/public_html"
        assert ann("GET", path).json() == {"folder": "/public_html", "staged": True, "releases": [], "total": 0}
        published = ann("POST", f"{account}/publish", {"folder": "/public_html"})
        assert published.status_code == 200
        assert list(published.json()) == ["message", "folder", "release"]
        home = server.files / "home" / ann.username / "public_html"
        assert (home / "page").read_text() == "two"
        listed = ann("GET", path).json()
        assert listed["staged"] is False
        (release,) = listed["releases"]
        assert release["id"] == published.json()["release"]
        assert TIME.fullmatch(release["until"])
        body = {"folder": "/public_html", "release": release["id"]}
        rolled_back = ann("POST", f"{account}/rollback", body).json()
        assert rolled_back["message"] == f"Rolled back to {release['id']}"
        assert (home / "page").read_text() == "one"
        assert ann("POST", f"{account}/rollback", body).status_code == 404
        ann("POST", f"{account}/rollback", {"folder": "/public_html"})
        assert (home / "page").read_text() == "two"
        removed = ann("DELETE", f"{account}/releases?folder=/public_html")
        assert removed.json() == {"message": "1 release removed successfully"}
        assert ann("GET", path).json()["total"] == 0

    def test_are_listed_in_parts(self, ann: Any, account: str, login: Any) -> None:
        client = login(account)
        client.mkd("site")
        for _ in range(3):
            client.sendcmd("SITE STAGE site")
            client.sendcmd("SITE PUBLISH")
        path = f"{account}/releases?folder=/site"
        ids = [release["id"] for release in ann("GET", path).json()["releases"]]
        part = ann("GET", f"{path}&limit=1&offset=1")
        assert part.json()["total"] == 3
        assert [release["id"] for release in part.json()["releases"]] == ids[1:2]
        assert part.headers["X-Total-Count"] == "3"
        assert "folder=%2Fsite&limit=1&offset=2" in part.headers["Link"]
        found = ann("GET", f"{path}&search={ids[0]}").json()
        assert ([release["id"] for release in found["releases"]], found["total"]) == (ids[:1], 1)

    def test_a_repeated_publish_is_answered_from_the_store(
        self, ann: Any, account: str, server: Any, login: Any
    ) -> None:
        client = login(account)
        client.sendcmd("SITE STAGE site")
        key = {"Idempotency-Key": "one"}
        first = ann("POST", f"{account}/publish", {"folder": "/site"}, headers=key)
        assert first.json()["release"] is None
        assert ann("POST", f"{account}/publish", {"folder": "/site"}, headers=key).json() == first.json()
        assert ann("POST", f"{account}/publish", {"folder": "/site"}).status_code == 409

    def test_discard(self, ann: Any, account: str, server: Any, login: Any) -> None:
        login(account).sendcmd("SITE STAGE site")
        assert ann("DELETE", f"{account}/staging?folder=/site").json() == {"message": "Staging discarded successfully"}
        answer = ann("DELETE", f"{account}/staging?folder=/site")
        assert (answer.status_code, answer.json()["message"]) == (409, "Nothing is staged for /site by this account")

    def test_where_there_are_no_files(self, ann: Any, account: str) -> None:
        for method, path, body in (
            ("GET", "releases?folder=/site", None),
            ("POST", "publish", {"folder": "/site"}),
            ("POST", "rollback", {"folder": "/site"}),
            ("DELETE", "staging?folder=/site", None),
        ):
            answer = ann(method, f"{account}/{path}", body)
            assert answer.status_code == 409
            assert answer.json()["message"].startswith("The files of this account are not on the API's machine")

    def test_bad_input(self, ann: Any, account: str, server: Any, login: Any) -> None:
        login(account)
        for method, path, body, status, sentence in (
            ("POST", "publish", {}, 400, "Folder is required"),
            ("POST", "publish", {"folder": "/"}, 400, "The home itself cannot be deployed"),
            ("POST", "publish", {"folder": "/../x"}, 400, "Folder must not have empty parts, '.' or '..' in it"),
            ("POST", "rollback", {"folder": "/x", "release": "last"}, 400, "Release must be the id of a release"),
            ("POST", "rollback", {"folder": "/missing/x"}, 404, "There is no folder that this one could be in"),
            ("GET", "releases", None, 400, "Folder is required"),
            ("GET", "releases?folder=x", None, 400, "Folder must begin with '/'"),
            ("DELETE", "releases?folder=/x&release=1", None, 400, "Release must be the id of a release"),
            ("DELETE", "releases?folder=/x&release=20200101-000000-000", None, 404, "There is no release 2020"),
        ):
            answer = ann(method, f"{account}/{path}", body)
            assert answer.status_code == status, (path, answer.text)
            assert answer.json()["message"].startswith(sentence)

    def test_of_somebody_else(self, account: str, make_caller: Any) -> None:
        other = make_caller()
        for method, path, body in (
            ("GET", "releases?folder=/site", None),
            ("POST", "publish", {"folder": "/site"}),
            ("POST", "rollback", {"folder": "/site"}),
            ("DELETE", "staging?folder=/site", None),
            ("DELETE", "releases?folder=/site", None),
        ):
            answer = other(method, f"{account}/{path}", body)
            assert (answer.status_code, answer.json()["message"]) == (404, "FTP account not found")
