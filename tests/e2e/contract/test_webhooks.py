"""Webhooks over the API, against a running server."""

import re
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

HOOK = {"url": "https://nothing.invalid/hook", "events": ["upload.*", "login.failed"]}
KEYS = ["id", "owner", "url", "events", "enabled", "description", "created_at", "updated_at"]
DELIVERY_KEYS = [
    "id",
    "event",
    "event_id",
    "status",
    "attempts",
    "response_status",
    "error",
    "created_at",
    "next_attempt_at",
    "finished_at",
    "payload",
]


def create(caller: Any, **changes: Any) -> dict[str, Any]:
    answer = caller("POST", "/webhooks", HOOK | changes)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


@pytest.mark.parametrize("slash", ["", "/"])
class TestBothSlashForms:
    def test_list_of_nothing(self, ann: Any, slash: str) -> None:
        answer = ann("GET", f"/webhooks{slash}")
        assert (answer.status_code, answer.json()) == (200, {"webhooks": [], "total": 0})

    def test_create_shows_the_secret_this_once(self, ann: Any, slash: str) -> None:
        answer = ann("POST", f"/webhooks{slash}", HOOK)
        assert answer.status_code == 201
        body = answer.json()
        assert list(body) == [*KEYS, "secret"]
        assert re.fullmatch(r"whsec_[0-9a-f]{48}", body["secret"])
        assert {name: body[name] for name in HOOK} == HOOK
        assert (body["owner"], body["enabled"], body["description"]) == (ann.username, True, "")
        secret = body.pop("secret")
        shown = ann("GET", f"/webhooks/{body['id']}{slash}")
        assert (shown.status_code, shown.json()) == (200, body)
        assert secret not in ann("GET", f"/webhooks{slash}").text

    def test_change(self, ann: Any, slash: str) -> None:
        webhook = create(ann)
        changes = {"url": "http://example.com:81/", "events": ["*"], "enabled": False, "description": "CDN"}
        answer = ann("PUT", f"/webhooks/{webhook['id']}{slash}", changes)
        assert answer.status_code == 200
        assert list(answer.json()) == KEYS
        assert {name: answer.json()[name] for name in changes} == changes

    def test_rotate(self, ann: Any, slash: str) -> None:
        webhook = create(ann)
        answer = ann("POST", f"/webhooks/{webhook['id']}/rotate-secret{slash}")
        assert answer.status_code == 200
        assert answer.json()["secret"] != webhook["secret"]

    def test_delete(self, ann: Any, slash: str) -> None:
        webhook = create(ann)
        ann("POST", f"/webhooks/{webhook['id']}/test")
        answer = ann("DELETE", f"/webhooks/{webhook['id']}{slash}")
        assert (answer.status_code, answer.json()) == (200, {"message": "Webhook deleted successfully"})
        assert ann("GET", f"/webhooks/{webhook['id']}").status_code == 404

    def test_deliveries(self, ann: Any, slash: str, wait_until: Any) -> None:
        path = f"/webhooks/{create(ann)['id']}"
        answer = ann("POST", f"{path}/test{slash}")
        assert answer.status_code == 202
        assert list(answer.json()) == DELIVERY_KEYS
        assert (answer.json()["event"], answer.json()["status"]) == ("ping", "pending")

        def first_error() -> Any:
            listed = ann("GET", f"{path}/deliveries{slash}").json()
            return listed["deliveries"][0]["error"] and listed

        listed = wait_until(first_error, "an attempt")
        (delivery,) = listed["deliveries"]
        assert listed["total"] == 1
        assert list(delivery) == DELIVERY_KEYS
        assert (delivery["status"], delivery["error"]) == ("pending", "The name nothing.invalid cannot be resolved")
        assert delivery["payload"]["id"] == delivery["event_id"]
        again = ann("POST", f"{path}/deliveries/{delivery['id']}/redeliver{slash}")
        assert (again.status_code, again.json()["id"]) == (202, delivery["id"])  # it was to be tried again anyway
        for status, count in (("pending", 1), ("delivered", 0), ("failed", 0)):
            assert ann("GET", f"{path}/deliveries{slash}?status={status}").json()["total"] == count


class TestCreate:
    @pytest.mark.parametrize(
        ("changes", "field", "sentence"),
        [
            ({"url": ""}, "url", "URL is required"),
            ({"url": "ftp://example.com/"}, "url", "URL must be an http or https URL"),
            ({"url": "https://user:pw@example.com/"}, "url", "URL must not hold a user name or password"),
            ({"url": "http://127.0.0.1/"}, "url", "URL must not lead to a private, local or reserved address"),
            ({"url": "http://2130706433/"}, "url", "URL must not lead to a private, local or reserved address"),
            ({"url": "http://[::ffff:10.0.0.1]/"}, "url", "URL must not lead to a private, local or reserved address"),
            ({"url": "http://localhost:3082/"}, "url", "URL must not lead to this machine"),
            ({"url": "https://example.com/" + "x" * 2000}, "url", "URL must be at most 2000 characters"),
            ({"url": 5}, "url", "URL must be a string"),
            ({"events": []}, "events", "Events must have at least 1 items"),
            ({"events": "upload.*"}, "events", "Events must be a list"),
            ({"events": ["upload.*", "uploads.*"]}, "events", "Events: item 2 names no event; there are account.cr"),
            ({"events": ["*"] * 51}, "events", "Events must have at most 50 items"),
            ({"enabled": "yes"}, "enabled", "Enabled must be true or false"),
            ({"description": "a\0"}, "description", "Description must not contain control characters"),
            ({"colour": "red"}, "colour", "Unknown field 'colour'"),
            ({"owner": "nobody"}, "owner", "Owner 'nobody' does not exist"),
        ],
    )
    def test_says_what_is_wrong(self, admin: Any, changes: dict[str, Any], field: str, sentence: str) -> None:
        before = admin("GET", "/webhooks").json()["total"]
        answer = admin("POST", "/webhooks", HOOK | changes)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(sentence)
        assert answer.json()["details"][0]["field"] == field
        assert admin("GET", "/webhooks").json()["total"] == before

    def test_needs_url_and_events(self, ann: Any) -> None:
        assert ann("POST", "/webhooks").json()["error"] == "URL is required"
        assert ann("POST", "/webhooks", {"url": HOOK["url"]}).json()["error"] == "Events is required"

    def test_for_somebody_else_is_for_admins(self, ann: Any, admin: Any) -> None:
        assert create(admin, owner=ann.username)["owner"] == ann.username
        assert ann("GET", "/webhooks").json()["total"] == 1
        assert admin("GET", f"/webhooks?owner={ann.username}").json()["total"] == 1
        answer = ann("POST", "/webhooks", HOOK | {"owner": "admin"})
        assert (answer.status_code, answer.json()["error"]) == (403, "Only an admin may set the owner")

    def test_stops_at_a_hundred(self, ann: Any) -> None:
        for _ in range(100):
            create(ann)
        answer = ann("POST", "/webhooks", HOOK)
        assert (answer.status_code, answer.json()["error"]) == (409, "An owner may have 100 webhooks at most")
        page = ann("GET", "/webhooks?limit=10&offset=95")
        assert (len(page.json()["webhooks"]), page.headers["X-Total-Count"]) == (5, "100")

    def test_is_replayed_with_its_secret(self, ann: Any) -> None:
        first, second = (ann("POST", "/webhooks", HOOK, headers={"Idempotency-Key": "k"}) for _ in range(2))
        assert first.json() == second.json()
        assert ann("GET", "/webhooks").json()["total"] == 1


class TestChange:
    def test_says_what_is_wrong(self, ann: Any) -> None:
        path = f"/webhooks/{create(ann)['id']}"
        before = ann("GET", path).json()
        for changes, sentence in (
            ({"url": "http://10.0.0.1/"}, "URL must not lead to a private"),
            ({"events": ["x"]}, "Events: item 1 names no event"),
            ({"owner": "admin"}, "Unknown field 'owner'"),
            ({"secret": "x"}, "Unknown field 'secret'"),
        ):
            answer = ann("PUT", path, changes)
            assert answer.status_code == 400
            assert answer.json()["error"].startswith(sentence)
        assert ann("GET", path).json() == before


class TestKeys:
    def test_that_may_read_may_look(self, ann: Any, make_caller: Any) -> None:
        path = f"/webhooks/{create(ann)['id']}"
        reader = make_caller(username=ann.username, permissions=("read",))
        assert reader("GET", path).status_code == 200
        assert reader("POST", f"{path}/test").json()["error"] == "API key is not scoped for 'webhooks'"


class TestRedeliver:
    def test_what_does_not_exist(self, ann: Any) -> None:
        path = f"/webhooks/{create(ann)['id']}/deliveries"
        for number, status in (("999999", 404), ("0", 400), ("x", 400), (str(2**63), 400)):
            assert ann("POST", f"{path}/{number}/redeliver").status_code == status
        assert ann("GET", f"{path}?status=lost").status_code == 400

    def test_of_another_webhooks_delivery(self, ann: Any) -> None:
        first, second = create(ann)["id"], create(ann)["id"]
        delivery = ann("POST", f"/webhooks/{first}/test").json()["id"]
        assert ann("POST", f"/webhooks/{second}/deliveries/{delivery}/redeliver").status_code == 404


class TestAccounts:
    def test_are_told_of(self, ann: Any) -> None:
        webhook = create(ann, events=["account.*"])["id"]
        account = ann("POST", "/ftp", {"username": "deploy", "password": "S3cret-pw"}).json()
        path = f"/ftp/{account['username']}"
        ann("PUT", path, {"quota_mb": 5, "enabled": True, "password": "S3cret-pw2"})
        ann("PUT", path, {"quota_mb": 5})
        ann("POST", f"{path}/toggle")
        ann("PUT", path, {"enabled": True, "read_only": True})
        ann("PUT", f"{path}/ip-restrictions", {"allowed_ips": ["192.0.2.1"]})
        ann("DELETE", path)
        ann("POST", "/ftp", {"username": "x", "password": "pw"})
        listed = ann("GET", f"/webhooks/{webhook}/deliveries").json()["deliveries"]
        told = [(item["event"], item["payload"]["data"].get("changed")) for item in reversed(listed)]
        assert told == [
            ("account.created", None),
            ("account.updated", ["password", "quota_mb"]),
            ("account.disabled", None),
            ("account.enabled", None),
            ("account.updated", ["read_only"]),
            ("account.updated", ["allowed_ips"]),
            ("account.deleted", None),
        ]
        data = listed[-1]["payload"]["data"]
        assert {name: data[name] for name in ("username", "owner", "home_dir", "quota_mb")} == {
            "username": account["username"],
            "owner": ann.username,
            "home_dir": account["home_dir"],
            "quota_mb": 0,
        }
        assert not any(secret in str(listed) for secret in ("S3cret", "$argon2", "password_hash"))
