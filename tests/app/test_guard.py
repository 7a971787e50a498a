"""Who may ask: names of the host, other sites, the token, and the headers of every answer."""

from __future__ import annotations

import pytest

pytest.importorskip("starlette", reason="the extra `app` is not installed")

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from mcn_lightning.app.guard import COOKIE, Guard, make_token, names_of

TOKEN = "a-token-that-nobody-guesses"


def client(token: str | None = None, base: str = "http://127.0.0.1:8000", hosts: set[str] | None = None) -> TestClient:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("inside"), methods=["GET", "POST"])])
    return TestClient(Guard(app, hosts or names_of("127.0.0.1"), token), base_url=base)


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_own_names_are_answered(host):
    assert client().get("/", headers={"host": host}).text == "inside"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost.evil:80"]
)
def test_other_names_are_refused(host):
    """A page of evil.example whose name is bound to 127.0.0.1 (DNS rebinding) sends its own name."""
    found = client().get("/", headers={"host": host})
    assert (found.status_code, "inside" in found.text) == (421, False)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"origin": "http://127.0.0.1:9000"}, 403),
    ],
)
def test_requests_of_other_sites_are_refused(headers, status):
    assert client().get("/", headers=headers).status_code == status


def test_another_site_cannot_send_a_form():
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client().post("/", headers=headers).status_code == 403


def test_every_answer_has_the_headers():
    for found in (client().get("/"), client().get("/", headers={"host": "evil"}), client(TOKEN).get("/")):
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["referrer-policy"] == "no-referrer"


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get():
    asked = client(TOKEN)
    assert asked.get("/").status_code == 401
    assert asked.get("/?token=wrong").status_code == 401
    first = asked.get(f"/?token={TOKEN}")
    assert (first.status_code, "inside" in first.text) == (200, False)
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert asked.get("/").text == "inside"


@pytest.mark.parametrize("cookie", ["", "mcn_token=", "mcn_token=wrong", "mcn_token=\u00e9", "=;;=", f"other={TOKEN}"])
def test_a_wrong_cookie_is_refused(cookie):
    found = client(TOKEN).get("/", headers={"cookie": cookie.encode("utf-8")})
    assert found.status_code == 401


def test_a_cookie_beside_others_counts():
    assert client(TOKEN).get("/", headers={"cookie": f"theme=dark; {COOKIE}={TOKEN}"}).text == "inside"


def test_tokens_are_long_and_new():
    assert len(make_token()) >= 32 and make_token() != make_token()


def test_the_names_of_an_open_server_are_addresses_and_what_the_user_adds():
    names = names_of("0.0.0.0", ["films.example"])
    assert {"127.0.0.1", "localhost", "films.example"} <= names and "evil.example" not in names
    assert names_of("10.1.2.3") >= {"10.1.2.3"} and "[fe80::1]" in names_of("fe80::1")
