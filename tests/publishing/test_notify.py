"""--notify: a webhook on this machine is told of each night, also of one that fails."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from soup.errors import OutputError
from soup.publishing.notify import notify
from tests.publishing.test_nights import Place


class Hook:
    """What was posted, and the status that the next post gets."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.posted: list[dict[str, Any]] = []
        self.status = 200
        self.url = ""


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A webhook."""
    found = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            found.posted.append(json.loads(content))
            self.send_response(found.status)
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}/secret"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_night_is_told_with_a_text_and_its_document(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is what Slack shows; a failing night is told, too; an answer changes nothing."""
    place = Place(tmp_path, monkeypatch)
    done = place.night("--notify", hook.url)
    (told,) = hook.posted
    assert told["text"].startswith("+ soup nightly: better: nothing was published here before; ")
    assert told["soup"] == done.document
    hook.status = 500
    done = place.night(SOUP_NOTIFY=hook.url)
    assert done.returncode == 3
    assert "warning: --notify: 127.0.0.1 answered 500: not told" in done.stderr
    assert "secret" not in done.stderr and len(hook.posted) == 2
    hook.status = 200
    (place.ckpts / "a" / "config.json").write_text("{")
    assert place.night("--no-skip-bad", "--notify", hook.url, "--junit", "n.xml").returncode == 1
    assert hook.posted[-1]["text"].startswith("soup nightly failed: ")
    assert place.night("gone/*", "--notify", hook.url).returncode == 2
    assert hook.posted[-1]["soup"] == {"error": "gone/*: matches no directory"}
    assert 'errors="1"' in (tmp_path / "n.xml").read_text()


def test_a_hook_that_is_not_there_is_one_line() -> None:
    """With its host alone: the rest is a secret."""
    with pytest.raises(OutputError, match=r"127\.0\.0\.1 cannot be reached") as raised:
        notify("http://127.0.0.1:9/secret", "text", {})
    assert "secret" not in str(raised.value)
