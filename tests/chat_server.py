"""A small server of OpenAI's chat completions, for tests: it answers with the last message, whole or word by word."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.moments import PATIENCE

KEY = "sk-of-the-upstream"


class ChatServer(ThreadingHTTPServer):
    """Listens on a free port of this machine. A model's name says what it does: fail, break, hang; others answer."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen = []  # (headers, body) of each request
        self.raw = {}  # model -> (status, content type, bytes) of its answer, sent as it is; then the connection ends
        self.left = threading.Event()  # whoever asked the model "hang" has closed the connection
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((dict(self.headers), body))
        model = body["model"]
        if self.path != "/v1/chat/completions":
            return self.answer(404, {"error": {"message": f"no {self.path}"}})
        if self.headers["Authorization"] != f"Bearer {KEY}":
            return self.answer(401, {"error": {"message": "wrong key"}})
        if model == "hang":
            self.connection.settimeout(PATIENCE)
            if self.connection.recv(1) == b"":
                self.server.left.set()
            self.close_connection = True
            return None
        if model in self.server.raw:
            return self.send_raw(*self.server.raw[model])
        if model == "limited":
            return self.answer(429, {"error": {"message": "too many requests"}})
        if model == "fail":
            return self.answer(500, "a fault")
        if model == "odd":
            return self.answer(200, "no JSON")
        said = body["messages"][-1]["content"]
        if body.get("stream"):
            return self.stream(model, said.split(" "))
        message = {"role": "assistant", "content": f"you said: {said}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self.answer(
            200, {"id": "1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
        )

    def answer(self, status, content):
        payload = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def send_raw(self, status, kind, payload):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(payload)
        self.close_connection = True

    def stream(self, model, words):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b": a comment\n\n")
        for i, word in enumerate(words):
            if model == "break" and i == 1:
                self.wfile.write(b"data: {half\n\n")
                break
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            chunk = {
                "id": "1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": model,
                "choices": [choice],
            }
            self.wfile.write(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode())
            self.wfile.flush()
        else:
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True
