"""`rph serve`: an exported router over HTTP. Needs the extra `serve`.

- `POST /route` {"queries": [...], "lam": 0.2, "task": "..."}: where each query goes;
- `POST /v1/chat/completions`: OpenAI's form; the last user message is routed, and the request is passed on;
- `GET /healthz`, `GET /metrics` (Prometheus).

Queries that come while others are being scored wait and are scored together. Every error is JSON in OpenAI's form.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import prometheus_client as prometheus
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from rph.deploy import upstreams
from rph.deploy.routing import Judged, LoadedRouter
from rph.deploy.upstreams import Refused, Upstream, error_body
from rph.errors import UsageError
from rph.registry import FAILURES

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


NAME = "rph"  # the model that a client of /v1/chat/completions asks for
MOST = 256  # queries of one request, and about as many are scored together
SLOW = 30.0  # seconds in which a request's body must have come
LAST = 30  # seconds that open requests get when the server is told to end
OPEN = ("/healthz",)  # needs no key
WATCH = ("/healthz", "/metrics")  # take no place: they must answer where every place is taken
PATHS = ("/route", "/v1/chat/completions", "/healthz", "/metrics")
GONE = 499  # a request whose client left before the whole answer: for /metrics alone, nobody reads an answer


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server takes on. Beyond it answers 413 and 429."""

    body: int = 1 << 20  # bytes of a request
    concurrent: int = 256  # requests that are being answered


class RouteRequest(BaseModel):
    """The body of POST /route."""

    model_config = ConfigDict(extra="forbid", strict=True)

    queries: Annotated[list[str], Field(min_length=1, max_length=MOST)]
    lam: float | None = None  # None: the server's
    task: str | None = None  # of all queries; None: every model may be chosen


# --- the application --------------------------------------------------------------------------------


def application(
    router: LoadedRouter,
    *,
    lam: float = 0.0,
    api_key: str | None = None,
    pool: Mapping[str, Upstream] | None = None,
    limits: Limits = Limits(),
) -> ASGIApp:
    """The server as an ASGI application. `lam` is for requests that give none; `pool` None: no chat completions."""
    router.check(lam)
    measured = Measured()
    together = Together(router, measured)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(together.work())
        async with httpx.AsyncClient(
            timeout=upstreams.TIMEOUT, limits=httpx.Limits(max_connections=None)
        ) as client:
            app.state.client = client
            yield
        worker.cancel()
        together.thread.shutdown(wait=False)

    app = FastAPI(title="rph serve", docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.post("/route")
    async def route(request: RouteRequest) -> dict[str, Any]:
        """Where each query goes."""
        at = lam if request.lam is None else request.lam
        router.check(at, request.task)
        start = time.perf_counter()
        judged = await together.judge(request.queries)
        routes = router.chosen(judged, at, time.perf_counter() - start, request.task)
        measured.routed(one.model for one in routes)
        return {"lam": at, "routes": [asdict(one) for one in routes]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        """Route the last user message and pass the request on."""
        if pool is None:
            raise HTTPException(
                501, "this server was started without --upstreams: it answers POST /route only"
            )
        body = _chat_body(await request.body())
        at, streamed = body.pop("lam", None), body.get("stream")
        at = lam if at is None else at
        if isinstance(at, bool) or not isinstance(at, int | float):
            raise UsageError("lam is not a number", fix="give a number in [0, 1], or leave it out")
        if streamed is not None and not isinstance(streamed, bool):
            raise UsageError("stream is not a boolean", fix="give true or false, or leave it out")
        router.check(at)
        judged = await together.judge([_last_user_message(body)])
        (routed,) = router.chosen(judged, at, 0.0)
        measured.routed([routed.model])
        client, upstream = app.state.client, pool[routed.model]
        if streamed:
            lines = await upstreams.stream(client, upstream, body, routed.model)
            return StreamingResponse(lines, media_type="text/event-stream")
        answer = await upstreams.complete(client, upstream, body, routed.model)
        return Response(answer, media_type="application/json")

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"status": "ok", "router": router.manifest.router.name, "models": list(router.models)}

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(
            prometheus.generate_latest(measured.registry), media_type=prometheus.CONTENT_TYPE_LATEST
        )

    @app.exception_handler(UsageError)
    async def usage(_: Request, error: UsageError) -> Response:
        return _error(400, str(error))

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _error(error.status, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":  # its location is an offset, which reads like a field
            return _error(400, f"the body is no JSON: {first['ctx']['error']}")
        return _error(400, f"{'.'.join(map(str, first['loc'][1:])) or 'body'}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def ours(_: Request, error: Exception) -> Response:
        return _error(500, "internal error: the server's log has it")

    return Gate(app, api_key, limits, measured)


def _chat_body(raw: bytes) -> dict[str, Any]:
    try:
        body = upstreams.from_json(raw)
        json.dumps(body, ensure_ascii=False).encode()  # half of a surrogate pair is no text to pass on
    except (ValueError, RecursionError) as error:
        raise UsageError("the body is no JSON", why=str(error)) from error
    if not isinstance(body, dict):
        raise UsageError("the body is no JSON object")
    if (model := body.get("model")) != NAME:
        asked = f"model {model[:100]!r}" if isinstance(model, str) else "a model without a name"
        raise HTTPException(404, f"{asked} is not served here: ask for {NAME!r}, and it chooses")
    return body


def _last_user_message(body: Mapping[str, Any]) -> str:
    """Its text: what the router chooses by. Parts that are no text are left out."""
    messages = body.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if not isinstance(message, dict) or message.get("role") != "user":
            continue
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        told = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
        if texts := [text for text in told if isinstance(text, str)]:
            return "\n".join(texts)
        raise UsageError(
            "there is nothing to route by",
            why="the last user message has no text, and it decides",
            fix="give it a part of type text",
        )
    raise UsageError("there is nothing to route by", why="`messages` has no user message")


def _error(status: int, message: str, **headers: str) -> Response:
    kind = {401: "authentication_error", 429: "rate_limit_error", 502: "upstream_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    content = upstreams.to_json(error_body(message, kind))  # messages quote what no UTF-8 need hold
    return Response(content, status, headers, media_type="application/json")


class Together:
    """Judges queries in a thread, those that wait in one call: an encoder takes a batch for little more than one."""

    def __init__(self, router: LoadedRouter, measured: Measured) -> None:
        self.router, self.measured = router, measured
        self.thread = ThreadPoolExecutor(
            1
        )  # always the same: OpenMP starts a team of its own for every caller
        self.waiting: asyncio.Queue[tuple[list[str], asyncio.Future[Judged]]] = asyncio.Queue()

    async def judge(self, queries: list[str]) -> Judged:
        """What the router says of one request's queries."""
        future: asyncio.Future[Judged] = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((queries, future))
        return await future

    async def work(self) -> None:
        """Serve what waits, for ever."""
        while True:
            group = [await self.waiting.get()]
            while not self.waiting.empty() and sum(len(queries) for queries, _ in group) < MOST:
                group.append(self.waiting.get_nowait())
            group = [one for one in group if not one[1].done()]  # some clients went away meanwhile
            if group and not await self._answer(group):
                for one in group:  # one of them fails: the others must not fail with it
                    await self._answer([one])

    async def _answer(self, group: list[tuple[list[str], asyncio.Future[Judged]]]) -> bool:
        """Give each request its answer. False where that failed and there are several: no request was answered."""
        queries = [query for some, _ in group for query in some]
        try:
            judged = await asyncio.get_running_loop().run_in_executor(self.thread, self.router.judge, queries)
        except FAILURES as error:
            if len(group) > 1:
                return False
            _settle(group[0][1], error=error)
            return True
        self.measured.batch.observe(len(queries))
        parts = judged.split([len(some) for some, _ in group])
        for (_, future), part in zip(group, parts, strict=True):
            _settle(future, part)
        return True


def _settle(
    future: asyncio.Future[Judged], judged: Judged | None = None, error: BaseException | None = None
) -> None:
    if future.done():  # its client went away
        return
    if error is not None:
        future.set_exception(error)
    elif judged is not None:
        future.set_result(judged)


class Measured:
    """What /metrics tells."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "rph_requests", "Requests answered.", ["path", "status"], registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            "rph_request_seconds", "Seconds to a request's whole answer.", ["path"], registry=self.registry
        )
        self.routes = prometheus.Counter(
            "rph_routed_queries", "Queries sent to each model.", ["model"], registry=self.registry
        )
        self.batch = prometheus.Histogram(
            "rph_batch_queries",
            "Queries scored together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self.busy = prometheus.Gauge("rph_requests_open", "Requests being answered.", registry=self.registry)

    def routed(self, models: Iterable[str]) -> None:
        for model in models:
            self.routes.labels(model).inc()


# --- who may ask, and how much ----------------------------------------------------------------------


class Gone(Exception):
    """The client went away before it had the whole answer."""


class Gate:
    """Stands before the application: key, host, size and number of requests, and whether the client is still there."""

    def __init__(self, app: ASGIApp, api_key: str | None, limits: Limits, measured: Measured) -> None:
        self.app, self.limits, self.measured = app, limits, measured
        self.key = None if api_key is None else api_key.encode()
        self.open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, path, status = time.perf_counter(), scope["path"], 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, watched)
        except Gone:
            status = GONE
        finally:
            known = path if path in PATHS else "other"
            self.measured.requests.labels(known, str(status)).inc()
            self.measured.seconds.labels(known).observe(time.perf_counter() - start)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if scope["path"] not in OPEN and (problem := self._stranger(headers)) is not None:
            await problem(scope, receive, send)
        elif scope["path"] in WATCH:
            await self.app(scope, receive, send)
        elif scope["method"] == "POST" and not upstreams.is_type(
            headers.get(b"content-type", b"").decode("latin-1"), "application/json"
        ):
            # A page in a browser may post other types to this machine without being asked whether it may.
            await _error(415, "the body must be application/json")(scope, receive, send)
        elif self.open >= self.limits.concurrent:
            busy = f"{self.limits.concurrent} requests are being answered; try again"
            await _error(429, busy, **{"Retry-After": "1"})(scope, receive, send)
        else:
            self._taken(1)
            free = False

            async def freeing(message: Message) -> None:
                """The place is free before the client can read the end of its answer and ask again."""
                nonlocal free
                if _is_last(message) and not free:
                    free = True
                    self._taken(-1)
                await send(message)

            try:
                if (body := await self._body(scope, receive, freeing)) is not None:
                    await self._answer(body, scope, receive, freeing)
            finally:
                if not free:
                    self._taken(-1)

    def _taken(self, change: int) -> None:
        self.open += change
        self.measured.busy.set(self.open)

    def _stranger(self, headers: Mapping[bytes, bytes]) -> Response | None:
        """The refusal, where the key is wrong. Without a key only this machine's own names are answered to: a
        name that a stranger's page points at this machine is not one of them."""
        if self.key is not None:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            right = scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(b" "), self.key)
            return None if right else _error(401, "the API key is missing or wrong")
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        return None if is_loopback(name.strip("[]")) else _error(421, f"this server is not {host!r}")

    async def _body(self, scope: Scope, receive: Receive, send: Send) -> bytes | None:
        """The request's body, no larger than is allowed and no slower. None: it was refused. Raises Gone."""
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(SLOW):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self.limits.body:
                        too_big = f"the body is larger than {self.limits.body:,} bytes"
                        await _error(413, too_big, Connection="close")(scope, receive, send)
                        return None
        except TimeoutError:
            too_slow = f"the body did not come within {SLOW:g} s"
            await _error(408, too_slow, Connection="close")(scope, receive, send)
            return None
        return bytes(body)

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the application answer, and stop it where the client leaves: nobody reads what an upstream is then
        paid for. Raises Gone."""
        given = complete = False

        async def body_once() -> Message:
            nonlocal given
            if given:
                await asyncio.Event().wait()  # for ever: that the client leaves, we notice ourselves
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def noted(message: Message) -> None:
            nonlocal complete
            await send(message)
            complete = _is_last(message)

        answering = asyncio.ensure_future(self.app(scope, body_once, noted))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not (answering.done() or complete):
                raise Gone
            await answering
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)


def _is_last(message: Message) -> bool:
    return message["type"] == "http.response.body" and not message.get("more_body", False)


async def _left(receive: Receive) -> None:
    """Returns when the client has left, or has its whole answer."""
    while (await receive())["type"] != "http.disconnect":
        pass


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket there, port 0: any that is free. UsageError where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen at {host} port {port}", why=str(error), fix="give another --port or --host"
        ) from error


def run(app: ASGIApp, at: socket.socket) -> None:
    """Serve until the process is told to end, by Ctrl-C or SIGTERM. Open requests get 30 s to be finished; the exit
    code is 0."""
    # uvicorn raises the signal once more when it is done: to end when told to is no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=LAST)
    )
    server.run(sockets=[at])
