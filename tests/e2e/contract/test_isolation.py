"""Owner isolation: every endpoint of the OpenAPI document, with a stranger's key, a wrong key, an expired one."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from wsp.auth.models import ApiKey, User
from wsp.auth.service import hash_key
from wsp.database import Database, utc_now

pytestmark = pytest.mark.e2e

FTP = {"username": "deploy", "password": "pw"}
# Disabled, so that the scheduler does not touch it while a test compares.
JOB = {"name": "nightly", "command": "true", "cron_expr": "0 3 * * *", "enabled": False}
WINDOW = {"cron_expr": "0 22 * * sun", "duration_seconds": 60}
WEBHOOK = {"url": "https://nothing.invalid/", "events": ["*"]}

# Every operation that the document has, and a body that it would accept. A new operation fails the test below
# until it is listed here.
AREAS: dict[str, tuple[str, Any]] = {
    "GET /api/v1/ftp/": ("ftp", None),
    "POST /api/v1/ftp/": ("ftp", FTP),
    "GET /api/v1/ftp/status": ("ftp", None),
    "GET /api/v1/ftp/{id}": ("ftp", None),
    "PUT /api/v1/ftp/{id}": ("ftp", {"quota_mb": 1}),
    "DELETE /api/v1/ftp/{id}": ("ftp", None),
    "PUT /api/v1/ftp/{id}/ip-restrictions": ("ftp", {"allowed_ips": []}),
    "POST /api/v1/ftp/{id}/toggle": ("ftp", None),
    "POST /api/v1/ftp/import": ("ftp", {"accounts": []}),
    "GET /api/v1/ftp/{domain}/anonymous": ("ftp", None),
    "PUT /api/v1/ftp/{domain}/anonymous": ("ftp", {"enabled": True}),
    "POST /api/v1/ftp/{id}/check": ("ftp", {"address": "192.0.2.1", "tls": True}),
    "GET /api/v1/ftp/sessions": ("ftp", None),
    "DELETE /api/v1/ftp/sessions/{id}": ("ftp", None),
    "GET /api/v1/ftp/{id}/transfers": ("ftp", None),
    "GET /api/v1/ftp/{id}/sessions/last": ("ftp", None),
    "GET /api/v1/ftp/bans": ("ftp", None),
    "DELETE /api/v1/ftp/bans/{address}": ("ftp", None),
    "GET /api/v1/ftp/{id}/credentials": ("ftp", None),
    "POST /api/v1/ftp/{id}/credentials": ("ftp", {"folder": "/site"}),
    "DELETE /api/v1/ftp/{id}/credentials/{credential_id}": ("ftp", None),
    "GET /api/v1/ftp/{id}/releases": ("ftp", None),
    "DELETE /api/v1/ftp/{id}/releases": ("ftp", None),
    "POST /api/v1/ftp/{id}/publish": ("ftp", {"folder": "/site"}),
    "POST /api/v1/ftp/{id}/rollback": ("ftp", {"folder": "/site"}),
    "DELETE /api/v1/ftp/{id}/staging": ("ftp", None),
    "GET /api/v1/cronjobs/": ("cron", None),
    "POST /api/v1/cronjobs/": ("cron", JOB),
    "POST /api/v1/cronjobs/import": ("cron", {"jobs": []}),
    "GET /api/v1/cronjobs/export": ("cron", None),
    "GET /api/v1/cronjobs/{id}": ("cron", None),
    "PUT /api/v1/cronjobs/{id}": ("cron", {"enabled": False}),
    "DELETE /api/v1/cronjobs/{id}": ("cron", None),
    "POST /api/v1/cronjobs/{id}/run": ("cron", None),
    "POST /api/v1/cronjobs/{id}/toggle": ("cron", None),
    "GET /api/v1/cronjobs/pause": ("cron", None),
    "POST /api/v1/cronjobs/pause": ("cron", {}),
    "POST /api/v1/cronjobs/resume": ("cron", {}),
    "GET /api/v1/cronjobs/maintenance": ("cron", None),
    "POST /api/v1/cronjobs/maintenance": ("cron", WINDOW),
    "DELETE /api/v1/cronjobs/maintenance/{window_id}": ("cron", None),
    "GET /api/v1/cronjobs/{id}/logs": ("cron", None),
    "GET /api/v1/cronjobs/{id}/stats": ("cron", None),
    "GET /api/v1/cronjobs/{id}/runs/{run}": ("cron", None),
    "GET /api/v1/cronjobs/{id}/runs/{run}/output": ("cron", None),
    "GET /api/v1/cronjobs/{id}/runs/{run}/stream": ("cron", None),
    "POST /api/v1/cronjobs/{id}/runs/{run}/kill": ("cron", {}),
    "GET /api/v1/cronjobs/{id}/notices": ("cron", None),
    "GET /api/v1/cronjobs/notices": ("cron", None),
    "POST /api/v1/cronjobs/preview": ("cron", {"cron_expr": "0 3 * * *"}),
    "POST /api/v1/users/{username}/api-keys/": ("users", {"name": "x", "permissions": ["ftp"]}),
    "GET /api/v1/users/{username}/api-keys/": ("users", None),
    "DELETE /api/v1/users/{username}/api-keys/{id}": ("users", None),
    "GET /api/v1/webhooks/": ("webhooks", None),
    "POST /api/v1/webhooks/": ("webhooks", WEBHOOK),
    "GET /api/v1/webhooks/{id}": ("webhooks", None),
    "PUT /api/v1/webhooks/{id}": ("webhooks", {"enabled": False}),
    "DELETE /api/v1/webhooks/{id}": ("webhooks", None),
    "POST /api/v1/webhooks/{id}/rotate-secret": ("webhooks", None),
    "POST /api/v1/webhooks/{id}/test": ("webhooks", None),
    "GET /api/v1/webhooks/{id}/deliveries": ("webhooks", None),
    "POST /api/v1/webhooks/{id}/deliveries/{delivery}/redeliver": ("webhooks", None),
    "GET /api/v1/auth/me": ("", None),
}

# What has to name the folder of an account in its query.
OF_A_FOLDER = ("/releases", "/staging")

# What belongs to no owner, and is for admins.
ADMINS_ONLY = ("GET /api/v1/ftp/bans", "DELETE /api/v1/ftp/bans/{address}")


def paths_of(owner: Any) -> dict[str, str]:
    """The things of an owner, made over the API, as values for the parameters of each path."""
    account = owner("POST", "/ftp/", FTP).json()["username"]
    credential = owner("POST", f"/ftp/{account}/credentials", {}).json()["credential"]["id"]
    job = owner("POST", "/cronjobs/", JOB).json()["id"]
    run = owner("POST", f"/cronjobs/{job}/run").json()["id"]
    owner("GET", f"/cronjobs/{job}/runs/{run}/stream")  # until it is over: nothing is to change any more
    window = owner("POST", "/cronjobs/maintenance", WINDOW).json()["id"]
    key = owner("POST", f"/users/{owner.username}/api-keys", {"name": "x"}).json()["key"]["id"]
    domain = f"{owner.username}.example"
    assert owner("PUT", f"/ftp/{domain}/anonymous", {"enabled": True}).status_code == 200
    webhook = owner("POST", "/webhooks/", WEBHOOK).json()["id"]
    delivery = owner("POST", f"/webhooks/{webhook}/test").json()["id"]
    return {
        "ftp": account,
        "credential_id": credential,
        "cronjobs": str(job),
        "run": str(run),
        "window_id": str(window),
        "users": key,
        "webhooks": webhook,
        "delivery": str(delivery),
        "domain": domain,
        "username": owner.username,
    }


def fill(operation: str, things: dict[str, str]) -> tuple[str, str]:
    """The method, and the path with an owner's things in it."""
    method, template = operation.split(" ")
    area = template.split("/")[3]
    path = template.removeprefix("/api/v1")
    for name in ("domain", "username", "delivery", "credential_id", "run", "window_id"):
        path = path.replace(f"{{{name}}}", things[name])
    if path.endswith(OF_A_FOLDER):
        path += "?folder=/site"
    return method, path.replace("{address}", "192.0.2.1").replace("{id}", things.get(area, ""))


class TestEveryOperation:
    def test_is_listed_here(self, anybody: httpx.Client) -> None:
        paths = anybody.get("/openapi.json").json()["paths"]
        documented = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}
        assert documented == {*AREAS, "GET /healthz", "GET /readyz", "GET /metrics"}

    def test_another_owners_things_do_not_exist(self, ann: Any, make_caller: Any) -> None:
        things = paths_of(ann)
        bob = make_caller()
        before = {
            path: ann("GET", path).json() for path in ("/ftp/", "/cronjobs/", "/cronjobs/maintenance", "/webhooks/")
        }
        for operation, (_, body) in AREAS.items():
            if "{" not in operation or operation in ADMINS_ONLY:
                continue
            method, path = fill(operation, things)
            answer = bob(method, path, body)
            assert (operation, answer.status_code) == (operation, 404)
            assert answer.json()["code"] == "NOT_FOUND"
        assert {path: ann("GET", path).json() for path in before} == before
        assert bob("GET", "/ftp/").json()["total"] == 0
        assert bob("GET", f"/ftp/?owner={ann.username}").json()["total"] == 0
        assert bob("GET", f"/cronjobs/?owner={ann.username}").json() == []
        assert bob("GET", f"/cronjobs/maintenance?owner={ann.username}").json() == {"windows": [], "total": 0}
        for method, path, body in (
            ("GET", f"/cronjobs/pause?owner={ann.username}", None),
            ("POST", "/cronjobs/pause", {"owner": ann.username}),
            ("POST", "/cronjobs/resume", {"owner": ann.username}),
            ("POST", "/cronjobs/maintenance", WINDOW | {"owner": ann.username}),
            ("POST", "/cronjobs/maintenance", WINDOW | {"owner": "*"}),
        ):
            assert (path, bob(method, path, body).status_code) == (path, 403)
        assert bob("GET", f"/webhooks/?owner={ann.username}").json() == {"webhooks": [], "total": 0}
        assert bob("GET", "/ftp/status").json()["total_accounts"] == 0

    def test_what_is_for_admins_is_forbidden_to_others(self, ann: Any) -> None:
        things = paths_of(ann)
        for operation in ADMINS_ONLY:
            method, path = fill(operation, things)
            assert (operation, ann(method, path).status_code) == (operation, 403)

    def test_a_key_without_the_permission_is_forbidden(self, ann: Any, make_caller: Any) -> None:
        things = paths_of(ann)
        other = {"ftp": ("cron",), "cron": ("ftp",), "users": ("read",), "webhooks": ("ftp", "cron")}
        keys = {area: make_caller(username=ann.username, permissions=other[area]) for area in other}
        scoped_ftp = make_caller(username=ann.username, permissions=("ftp",))
        for operation, (area, body) in AREAS.items():
            if not area:
                continue
            method, path = fill(operation, things)
            key = scoped_ftp if area == "users" and method == "GET" else keys[area]
            answer = key(method, path, body)
            assert (operation, answer.status_code) == (operation, 403)
            assert answer.json()["error"] == f"API key is not scoped for '{area}'"

    def test_an_expired_key_is_unauthorized(self, ann: Any, make_caller: Any, store_of_server: Database) -> None:
        things = paths_of(ann)
        expired = make_caller(username=ann.username)
        with store_of_server.transaction() as session:
            session.execute(
                update(ApiKey)
                .where(ApiKey.key_hash == hash_key(expired.secret))
                .values(expires_at=utc_now() - timedelta(seconds=1))
            )
        for operation, (_, body) in AREAS.items():
            method, path = fill(operation, things)
            answer = expired(method, path, body)
            assert (operation, answer.status_code) == (operation, 401)
            assert answer.json()["error"] == "Invalid or expired API key"

    def test_a_disabled_user_is_out_with_the_next_request(
        self, ann: Any, store_of_server: Database, wait_until: Any
    ) -> None:
        assert ann("GET", "/auth/me").status_code == 200
        with store_of_server.transaction() as session:
            session.execute(update(User).where(User.username == ann.username).values(status="disabled"))
        # The change is another process's, so the server learns of it through its change feed.
        wait_until(lambda: ann("GET", "/auth/me").status_code == 401, "the key stops working", 10)

    def test_an_admin_sees_everything(self, ann: Any, admin: Any) -> None:
        things = paths_of(ann)
        for operation in AREAS:
            method, path = fill(operation, things)
            if method == "GET":
                # The account was never used: it has no last session.
                expected = 404 if path.endswith("/sessions/last") else 200
                assert (operation, admin(method, path).status_code) == (operation, expected)
