"""A judge on localhost: reads VLMEvalKit's real prompts, and answers as it is told to."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "test-judge"
KEY = "sk-very-secret-0123456789"

Answer = Callable[[str], str]


def sensible(prompt: str) -> str:
    """What a good judge would say of the answers in these tests."""
    if prompt == "hello":
        return "Hello!"
    if "correctness score" in prompt:  # MMVet: truth and answer in the last row
        _, truth, answer, _ = prompt.rsplit("\n", 1)[-1].split(" | ")
        return "1.0" if truth in answer else "0.3" if truth[0] in answer else "0.0"
    if "Extracted answer" in prompt:  # MathVista: the last number, or letter, of the response
        response = prompt.rsplit("Model respone: ", 1)[-1].removesuffix("Extracted answer:")
        found = re.findall(r"\d+(?:\.\d+)?|\b[A-D]\b", response)
        return found[-1] if found else "nothing"
    answer = prompt.rsplit("Answer: ", 1)[-1].split("\nYour output:")[0].lower()
    if "Yes / No" in prompt:
        return "Yes" if "indeed" in answer else "No" if "hardly" in answer else "Unknown"
    options = re.findall(r"^([A-Z])\. (.+)$", prompt.rsplit("Options: ", 1)[-1], re.M)
    meant = {"first": 0, "second": 1, "third": 2}
    return next((options[k][0] for word, k in meant.items() if word in answer), "Z")


class JudgeServer:
    """Counts, and can be told to misbehave.

    Attributes:
        answer: from prompt to reply.
        status: of every response; 200 is a reply.
        delay: seconds before each.
        failing: by the number of a question, whether it is answered with an error.
        asked: prompts, without the probe's, in the order they came.
        requests: the bodies of all requests.
        keys: Authorization headers seen.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.status = 200
        self.delay = 0.0
        self.failing: Callable[[int], bool] = lambda number: False
        self.asked: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.url = ""
        self._lock = threading.Lock()

    def respond(self, path: str, key: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body for a request, as a server of OpenAI's kind gives them."""
        prompt = body["messages"][-1]["content"]
        with self._lock:
            self.requests.append(body)
            self.keys.add(key)
            if prompt != "hello":
                self.asked.append(prompt)
            number = len(self.asked)
        time.sleep(self.delay)
        status = 500 if self.failing(number) else self.status
        if path != "/v1/chat/completions":
            return 404, {"detail": "Not Found"}
        if status == 401:  # some servers show what they were given
            return 401, {"error": {"message": f"Incorrect API key provided: {key}"}}
        if status != 200:
            return status, {"error": {"message": f"something broke, {key}"}}
        if body["model"] != MODEL:
            text = f"The model `{body['model']}` does not exist."
            return 404, {"error": {"message": text, "code": "model_not_found"}}
        message = {"role": "assistant", "content": self.answer(prompt)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return 200, {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": MODEL,
            "choices": [choice],
        }


@contextmanager
def serve(answer: Answer = sensible) -> Iterator[JudgeServer]:
    """A judge server for the time of a test; its address is ``url``."""
    judge = JudgeServer(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = self.headers.get("Authorization", "")
            status, document = judge.respond(self.path, key, body)
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
