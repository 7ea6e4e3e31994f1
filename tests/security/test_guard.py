"""The guard: only our own page may ask."""

import ast
import urllib.error
import urllib.request
from contextlib import suppress

import pytest

from studio.guard import HEADERS, Guard
from tests.studio_process import CHECKOUT, running

HOST = "127.0.0.1:7860"


async def _page(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOWALL")]})
    await send({"type": "http.response.body", "body": b"page"})


def ask(guard, path="/", method="GET", query="", kind="http", **headers):
    """(status, headers) of one request through the guard."""
    sent = []

    async def send(message):
        sent.append(message)

    fields = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {"type": kind, "method": method, "path": path, "query_string": query.encode()}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in fields.items()]
    with suppress(StopIteration):  # nothing here waits, and another test's browser may hold this thread's event loop
        guard(scope, None, send).send(None)
    return sent[0].get("status", sent[0]["type"]), dict(sent[0].get("headers", ()))


@pytest.mark.quick
class TestOwnPageOnly:
    @pytest.mark.parametrize("host", [HOST, "localhost:7860", "LOCALHOST", "[::1]:7860"])
    def test_this_machine_is_answered(self, host):
        assert ask(Guard(_page), host=host)[0] == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:7860", "", "[", "127.0.0.1@evil.example"]
    )
    def test_a_foreign_host_name_is_refused(self, host):
        assert ask(Guard(_page), host=host)[0] == 403

    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:7860"])
    def test_a_foreign_origin_is_refused(self, origin):
        assert ask(Guard(_page), origin=origin)[0] == 403

    def test_our_own_origin_is_answered(self):
        assert ask(Guard(_page), method="POST", origin=f"http://{HOST}", sec_fetch_site="same-origin")[0] == 200

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_another_sites_write_is_refused_and_its_link_is_not(self, site):
        assert ask(Guard(_page), method="POST", sec_fetch_site=site)[0] == 403
        assert ask(Guard(_page), method="GET", sec_fetch_site=site)[0] == 200

    def test_a_foreign_websocket_is_closed(self):
        assert ask(Guard(_page), kind="websocket", origin="http://evil.example")[0] == "websocket.close"

    def test_headers_stand_on_every_answer_and_replace_weaker_ones(self):
        for status, headers in (ask(Guard(_page)), ask(Guard(_page), host="evil.example")):
            assert status in (200, 403)
            assert {name: headers[name] for name, _ in HEADERS} == dict(HEADERS)


@pytest.mark.quick
class TestToken:
    guard = Guard(_page, frozenset(), "secret")

    def test_without_the_token_nothing_is_answered(self):
        for query in ("", "token=", "token=wrong", "token=secre"):
            assert ask(self.guard, query=query)[0] == 403
        assert ask(self.guard, cookie="prunarium_token=wrong")[0] == 403

    def test_the_token_in_the_address_becomes_a_cookie_that_no_other_site_sends(self):
        status, headers = ask(self.guard, query="token=secret")
        assert status == 200
        assert headers[b"set-cookie"] == b"prunarium_token=secret; Path=/; HttpOnly; SameSite=Strict"

    def test_the_cookie_opens_the_page_on_any_host_name(self):
        assert ask(self.guard, host="my.machine:7860", cookie="a=b; prunarium_token=secret")[0] == 200

    def test_the_token_does_not_admit_another_sites_page(self):
        assert ask(self.guard, method="POST", cookie="prunarium_token=secret", sec_fetch_site="cross-site")[0] == 403
        assert ask(self.guard, origin="http://evil.example", cookie="prunarium_token=secret")[0] == 403

    def test_any_host_without_a_token_cannot_be_built(self):
        with pytest.raises(ValueError, match="token"):
            Guard(_page, frozenset())


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "here").mkdir()
    (folder / "here" / "secret.txt").write_text("secret")
    with running(folder, "--token", "word") as at:
        yield at.address


def fetch(url, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def test_the_real_studio_asks_for_the_token_and_sets_the_headers(address):
    bare = address.split("?")[0]
    assert fetch(bare)[0] == 403
    status, headers, _ = fetch(address)
    assert status == 200
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert fetch(address, Host="evil.example")[0] == 403


def test_the_real_studio_serves_no_file_of_this_machine(address):
    bare, cookie = address.split("?")[0], {"Cookie": "prunarium_token=word"}
    assert fetch(bare + "config", **cookie)[0] == 200
    for path in ("secret.txt", "/etc/passwd", "../secret.txt", "studio/app.py", "../../workspace/workspace.json"):
        for prefix in ("gradio_api/file=", "file=", "static/"):
            status, _, body = fetch(bare + prefix + path, **cookie)
            assert status in (403, 404), f"{prefix}{path}: {status} {body[:80]}"


def test_another_address_than_this_machines_own_needs_a_token(tmp_path, capsys):
    from studio.app import main

    assert main(["--host", "0.0.0.0", "--runs", str(tmp_path)]) == 1
    assert "--token" in capsys.readouterr().err


def test_what_is_told_in_passing_is_escaped():
    """Gradio draws these as HTML, and a sentence may hold a name from somebody's file."""
    seen, plain = 0, []
    for path in (CHECKOUT / "studio").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("gr.Info", "gr.Warning"):
                said, seen = node.args[0], seen + 1
                if not isinstance(said, ast.Constant) and not ast.unparse(said).startswith("html.escape("):
                    plain.append(f"{path.name}:{node.lineno}")
    assert plain == [] and seen > 5
