"""Who may ask what `cm serve` shows, and what its pages may do in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
import signal
import socket
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import RunCm
from webserver import IS_ALPHA, Server, datasette, serving

from indexer.web import guard

TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
OWN_PAGES = ("/", "/-/cm/tables", "/-/cm/stats.json", "/-/cm/metrics", "/-/cm/health")
DATASETTE_PAGES = (
    "/cm/usage", "/cm", "/cm/sessions", "/cm/messages", "/cm/dearest-sessions", "/cm/models.json", "/cm/models.csv",
    "/-/plugins", "/-/static/app.css", "/cm/nothing",
)  # fmt: skip


@pytest.fixture(scope="module")
def locked(demo_index: Path):
    """A server that asks for a token."""
    with serving(demo_index, HOME=str(demo_index.parent), CM_TOKEN=TOKEN) as server:
        yield server


# The Host header


@pytest.mark.parametrize("page", [*OWN_PAGES, *DATASETTE_PAGES])
def test_a_host_that_is_not_ours_gets_nothing_on_any_page(web: Server, page):
    reply = web.ask(page, {"Host": f"evil.example:{web.port}"})
    assert reply.status == 403
    assert len(reply.body) < 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST", "127.0.0.1:{port}", "localhost:1", "[::1]:{port}"]
)
def test_this_machine_is_ours_by_every_name_it_has_here(web: Server, host):
    assert web.get("/-/cm/health", {"Host": host.format(port=web.port)}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example@127.0.0.1",
        "127.0.0.1@evil.example", "127.0.0.1:80:80", "127.0.0.1, evil.example", "10.0.0.1", "0.0.0.0", "[::2]",
        "evil.example#127.0.0.1", "2130706433", "127.1",
    ],
)  # fmt: skip
def test_a_host_that_only_looks_like_ours_is_not(web: Server, host):
    assert web.ask("/cm.json", {"Host": host}).status == 403


@pytest.mark.parametrize("hosts", ["", "Host: 127.0.0.1\r\nHost: evil.example\r\n"])
def test_no_host_and_two_hosts_are_not_ours(web: Server, hosts):
    with socket.create_connection(("127.0.0.1", web.port)) as connection:
        connection.sendall(f"GET /cm.json HTTP/1.0\r\n{hosts}\r\n".encode())
        answer = connection.recv(100)
    assert answer.split()[1] in (b"403", b"400")


def test_datasette_without_an_index_is_left_as_it_is(tmp_path: Path):
    import sqlite3

    other = tmp_path / "other.db"
    sqlite3.connect(other).execute("CREATE TABLE things (id INTEGER PRIMARY KEY)").connection.close()
    with datasette(other) as server:
        assert "things" in server.get("/").text
        assert server.ask("/", {"Host": "evil.example"}).status == 200
        assert server.get("/-/cm/health").status == 404
        assert "content-security-policy" not in server.get("/").headers


# The token


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_host_that_others_reach_demands_a_token(run_cm: RunCm, demo_index: Path, host):
    done = run_cm("serve", "--host", host, "--db", demo_index)
    assert done.returncode == 1
    assert "--token-file" in done.stderr and "CM_TOKEN" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("page", [*OWN_PAGES, *DATASETTE_PAGES, "/-/cm/static/cm.css"])
def test_who_does_not_know_the_token_gets_nothing_on_any_page(locked: Server, page):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Cookie": f"cm_session={TOKEN}"}):
        reply = locked.ask(page, headers)
        assert reply.status == 401
        assert len(reply.body) < 200
        assert reply.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("page", OWN_PAGES)
def test_who_knows_the_token_gets_everything(locked: Server, page):
    assert locked.get(page, BEARER).status == 200


def test_a_browser_logs_in_once(locked: Server):
    asked = locked.ask("/cm/sessions?_size=1", {"Accept": "text/html,*/*"})
    assert asked.status == 401 and 'value="/cm/sessions?_size=1"' in asked.text
    form = f"token={TOKEN}&next=/cm/sessions%3F_size%3D1"
    done = locked.ask("/-/cm/login", method="POST", body=form)
    assert (done.status, done.headers["location"]) == (303, "/cm/sessions?_size=1")
    cookie = done.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    assert locked.get("/cm/sessions?_size=1", {"Cookie": cookie.partition(";")[0]}).status == 200


def test_a_wrong_token_asks_again_and_gives_no_cookie(locked: Server):
    reply = locked.ask("/-/cm/login", method="POST", body="token=wrong&next=/%22%3E%3Cscript%3E")
    assert reply.status == 401 and "not the token" in reply.text
    assert "set-cookie" not in reply.headers and "<script" not in reply.text


@pytest.mark.parametrize(
    "after", ["https://evil.example/", "//evil.example/", "/\\evil.example", "/%0d%0aSet-Cookie:a=b"]
)
def test_a_login_leads_nowhere_else(locked: Server, after):
    reply = locked.ask("/-/cm/login", method="POST", body=f"token={TOKEN}&next={after}")
    assert (reply.status, reply.headers["location"]) == (303, "/")


def test_a_login_does_not_outlive_the_server(locked: Server, demo_index: Path):
    with serving(demo_index, CM_TOKEN=TOKEN) as earlier:
        cookie = earlier.ask("/-/cm/login", method="POST", body=f"token={TOKEN}").headers["set-cookie"]
        assert earlier.ask("/-/cm/health", {"Cookie": cookie.partition(";")[0]}).status == 200
    assert locked.ask("/-/cm/health", {"Cookie": cookie.partition(";")[0]}).status == 401


def test_the_token_may_stand_in_a_file(demo_index: Path, tmp_path: Path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o644)
    with serving(demo_index, "--token-file", file, "--host", "0.0.0.0") as server:
        assert "chmod 600" in server.talk and TOKEN not in server.talk
        assert server.ask("/-/cm/health").status == 401
        assert server.ask("/-/cm/health", BEARER).status == 200
        assert TOKEN not in server.get("/-/metadata.json", BEARER).text + server.get("/-/config.json", BEARER).text
        # By an address nobody can be led here; by a name, perhaps.
        assert server.ask("/-/cm/health", {**BEARER, "Host": "192.0.2.1"}).status == 200
        assert server.ask("/-/cm/health", {**BEARER, "Host": "evil.example"}).status == 403


@pytest.mark.parametrize("token", ["short", "fünfzehn-und-mehr-zeichen", "with\ttab-in-the-middle"])
def test_a_token_that_is_easily_guessed_or_cannot_be_sent_is_refused(run_cm: RunCm, demo_index: Path, token):
    done = run_cm("serve", "--db", demo_index, env={"CM_TOKEN": token})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "CM_TOKEN" in done.stderr and "openssl" in done.stderr and token not in done.stderr


def test_a_token_file_that_is_not_there_or_empty_is_named(run_cm: RunCm, demo_index: Path, tmp_path: Path):
    (tmp_path / "empty").touch()
    for file in ("missing", "empty"):
        done = run_cm("serve", "--db", demo_index, "--token-file", tmp_path / file)
        assert done.returncode == 1 and file in done.stderr and done.stderr.count("\n") == 1


# The pages in a browser


class Page(HTMLParser):
    """The scripts of a page, what it loads, and its handlers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.loaded: list[str] = []
        self.handlers: list[str] = []
        self.styles = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.handlers += [value or "" for name, value in attrs if re.fullmatch(r"on\w+", name)]
        self.styles += tag == "style" or "style" in found
        if tag == "script" and "src" not in found:
            self.scripts.append(found.get("nonce"))
        self.loaded += [found[name] or "" for name in ("src", "srcset") if name in found]
        self.loaded += [found["href"] or ""] if tag == "link" else []


def directives(policy: str) -> dict[str, list[str]]:
    return {part.split()[0]: part.split()[1:] for part in policy.split(";")}


@pytest.mark.parametrize("path", [*OWN_PAGES, *DATASETTE_PAGES])
def test_no_page_may_load_or_send_anything_elsewhere(web: Server, path):
    headers = web.get(path).headers
    policy = directives(headers["content-security-policy"])
    assert policy["default-src"] == ["'none'"] and policy["base-uri"] == ["'none'"]
    assert policy["frame-ancestors"] == ["'none'"] and policy["form-action"] == ["'self'"]
    assert policy["connect-src"] == ["'self'"] and policy["img-src"] == ["'self'", "data:"]
    assert "'unsafe-inline'" not in policy["script-src"] and "'unsafe-eval'" not in policy["script-src"]
    assert headers["x-content-type-options"] == "nosniff" and headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", OWN_PAGES[:2])
def test_our_page_runs_files_of_ours_and_nothing_else(web: Server, path):
    reply = web.get(path)
    policy = directives(reply.headers["content-security-policy"])
    assert policy["script-src"] == policy["style-src"] == ["'self'"]
    page = Page(reply.text)
    assert not page.scripts and not page.handlers and not page.styles


@pytest.mark.parametrize("path", ["/", *DATASETTE_PAGES[:5], "/cm/nothing", "/cm/responses?_facet=model_id"])
def test_everything_a_page_loads_is_here(web: Server, path):
    found = Page(web.get(path).text).loaded
    assert found
    for address in found:
        assert address.startswith(("/", web.url)) and not address.startswith("//"), address


@pytest.mark.parametrize(
    "path", [*DATASETTE_PAGES[:5], "/cm/nothing", "/cm?sql=select+1", "/cm/models/1", "/-/plugins"]
)
def test_datasettes_own_scripts_run_by_a_nonce_of_the_response(web: Server, path):
    replies = [web.get(path) for _ in range(2)]
    nonces = []
    for reply in replies:
        allowed = directives(reply.headers["content-security-policy"])["script-src"]
        page = Page(reply.text)
        assert page.scripts or not reply.headers["content-type"].startswith("text/html") or reply.status == 404
        assert {f"'nonce-{nonce}'" for nonce in page.scripts} <= set(allowed)
        for handler in page.handlers:
            digest = base64.b64encode(hashlib.sha256(handler.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in allowed, handler
        nonces.append(set(page.scripts))
    assert not nonces[0] & nonces[1]


def test_the_handlers_in_datasettes_templates_are_those_that_are_allowed():
    """A newer Datasette may have others: they would be dead buttons."""
    import datasette

    templates = Path(datasette.__file__).parent / "templates"
    found = {
        handler
        for file in templates.rglob("*.html")
        for handler in re.findall(r"\son\w+=\"([^\"]*)\"", file.read_text())
        if file.name not in ("patterns.html",)
    }
    assert found <= set(guard.HANDLERS)
    assert found or not IS_ALPHA


# Starting and stopping


def test_serve_says_who_can_reach_it(web: Server, locked: Server):
    assert "every user of this machine" in web.talk and "CM_TOKEN" in web.talk
    assert "every user" not in locked.talk


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_it_is_no_failure(demo_index: Path, number):
    with serving(demo_index) as server:
        assert server.get("/-/cm/health").status == 200
        assert server.stop(number) == 0
        assert "Traceback" not in server.talk
        assert server.process.stdout is not None and server.process.stdout.read() == ""


def test_a_port_that_is_taken_is_named(web: Server, run_cm: RunCm, demo_index: Path):
    done = run_cm(
        "serve", "--db", demo_index, "--port", web.port, env={"CLAUDE_CONFIG_DIR": str(demo_index.parent / ".claude")}
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and f"127.0.0.1:{web.port}" in done.stderr and "--port" in done.stderr


def test_without_an_index_it_says_what_to_do(run_cm: RunCm, tmp_path: Path):
    done = run_cm("serve", "--db", tmp_path / "none.db")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cm refresh" in done.stderr
