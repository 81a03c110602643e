"""`rph serve` as its clients meet it: over a socket, with the official OpenAI client, and with those who should not get in."""

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from functools import partial

import httpx
import numpy as np
import openai
import pytest
import uvicorn
import yaml
from tests import exported, moments, toys
from tests.chat_server import KEY, ChatServer

import rph
from rph import UsageError
from rph.deploy import serve, upstreams
from rph.distribution import install

# Reading the certificates, which no server here has, would take longer than the requests.
get, post = (partial(ask, timeout=moments.PATIENCE, verify=False) for ask in (httpx.get, httpx.post))
LARGE = float(toys.tables()["train"]["correct/large"].mean())


@pytest.fixture
def router(tmp_path):
    out, found = exported.write(tmp_path)
    return rph.load(out, device="cpu", registry=found)


@pytest.fixture
def chat_server():
    server = ChatServer()
    yield server
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def served(router, **options):
    """A server in a thread: its address."""
    at = serve.listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(serve.application(router, **options), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [at]})
    thread.start()
    try:
        moments.until(lambda: server.started or not thread.is_alive(), "the server starts")
        assert server.started
        yield f"http://127.0.0.1:{at.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(moments.PATIENCE)
        at.close()
        assert not thread.is_alive()


@pytest.fixture
def waiting(monkeypatch):
    """How many requests wait to be scored, of those that ask the servers of this test."""
    made = []

    class Told(serve.Together):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(serve, "Together", Told)
    return lambda: sum(each.waiting.qsize() for each in made)


def pool_of(server, monkeypatch, **names):
    """Every model of the toy pool on one server, under the names given there or its own."""
    monkeypatch.setenv("UPSTREAM_KEY", KEY)
    return {
        model: upstreams.Upstream(
            base_url=server.url, model=names.get(model, f"{model}-v2"), api_key_env="UPSTREAM_KEY"
        )
        for model in toys.MODELS
    }


def error_of(response):
    """The message of an error in OpenAI's form."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


# --- /route -----------------------------------------------------------------------------------------


def test_route_answers_as_the_library_does(router):
    with served(router) as url:
        answer = post(f"{url}/route", json={"queries": ["number 4", "number 7"], "lam": 0.5}).json()
        assert [one["model"] for one in answer["routes"]] == ["small", "small"]
        first = answer["routes"][0]
        assert first["scores"] == pytest.approx(exported.MEANS | {"large": LARGE})
        assert first["cost"] == pytest.approx(0.001) and 0 < first["seconds"] < 60
        assert post(f"{url}/route", json={"queries": ["number 4"]}).json()["routes"][0]["model"] == "large"
    with served(router, lam=0.5) as url:
        assert post(f"{url}/route", json={"queries": ["number 4"]}).json()["lam"] == 0.5


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"queries": []}, "queries"),
        ({"queries": ["a"] * 257}, "queries"),
        ({"queries": "number 4"}, "queries"),
        ({"queries": [4]}, "queries.0"),
        ({"queries": ["number 4"], "lambda": 1}, "lambda"),
        ({"queries": ["number 4"], "lam": 2}, "not in [0, 1]"),
        ({"queries": ["number 4"], "lam": "high"}, "lam"),
        ({"queries": ["number \ud800"]}, "no valid Unicode"),
        ({"queries": ["number 4"], "\ud800": 1}, "unicode"),
        ({"queries": ["number 4"], "lam": 10**400}, "lam"),
        ({"queries": ["number 4"], "lam": float("nan")}, "not in [0, 1]"),
        ({"queries": ["number 4"], "task": 4}, "task"),
        ([], "body"),
    ],
)
def test_a_wrong_body_is_told_what_is_wrong(router, body, told):
    with served(router) as url:
        answer = post(f"{url}/route", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert answer.status_code == 400 and told in error_of(answer)


def test_route_takes_the_task_of_its_queries(tmp_path):
    out, found = exported.write(tmp_path, exported.blocked())
    with served(rph.load(out, device="cpu", registry=found)) as url:
        for task, model in ((None, "large"), ("even", "large"), ("odd", "small")):
            answer = post(f"{url}/route", json={"queries": ["number 5"], "task": task})
            assert answer.json()["routes"][0]["model"] == model
        for task in ("od", "\ud800"):
            body = json.dumps({"queries": ["number 5"], "task": task})
            answer = post(f"{url}/route", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400


def test_a_body_that_is_no_json_is_told_without_an_offset(router):
    with served(router) as url:
        for content in (b"{", b"[" * 100_000, b"\xff"):
            answer = post(f"{url}/route", content=content, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400
            if content == b"{":
                assert error_of(answer).startswith("the body is no JSON: Expecting property name")


def test_without_prices_no_lambda_is_served(tmp_path):
    out, found = exported.write(tmp_path, toys.tables(costs=False))
    router = rph.load(out, device="cpu", registry=found)
    with pytest.raises(UsageError, match="no prices"):
        serve.application(router, lam=0.2)
    with served(router) as url:
        answer = post(f"{url}/route", json={"queries": ["number 4"], "lam": 0.2})
        assert answer.status_code == 400 and "no price is known of" in error_of(answer)


def test_a_query_that_fails_does_not_take_others_with_it(router, monkeypatch, waiting):
    """Requests that wait are scored together; here one of them makes the encoder fail."""
    held, sizes, real = threading.Event(), [], router.judge

    def judge(queries):
        sizes.append(len(queries))
        if len(sizes) == 1:
            assert held.wait(moments.PATIENCE)  # the others gather meanwhile
        return real(queries)

    monkeypatch.setattr(router, "judge", judge)
    found = {}

    def ask(query):
        found[query] = post(f"{url}/route", json={"queries": [query]})

    with served(router) as url:
        asking = [threading.Thread(target=ask, args=[q]) for q in ("number 1", "number 2", "no number")]
        asking[0].start()
        moments.until(lambda: sizes, "the first is being scored")
        for thread in asking[1:]:
            thread.start()
        moments.until(lambda: waiting() == 2, "the others wait")
        held.set()
        for thread in asking:
            thread.join(moments.PATIENCE)
    assert sizes == [1, 2, 1, 1]
    assert [found[f"number {i}"].status_code for i in (1, 2)] == [200, 200]
    assert found["no number"].status_code == 500
    assert error_of(found["no number"]) == "internal error: the server's log has it"


def test_health_and_metrics(router):
    with served(router) as url:
        assert get(f"{url}/healthz").json() == {
            "status": "ok",
            "router": "knn",
            "models": list(toys.MODELS),
        }
        post(f"{url}/route", json={"queries": ["number 4", "number 5"]})
        get(f"{url}/anything")
        lines = get(f"{url}/metrics").text.splitlines()
        assert 'rph_routed_queries_total{model="large"} 2.0' in lines
        assert 'rph_requests_total{path="/route",status="200"} 1.0' in lines
        assert 'rph_requests_total{path="other",status="404"} 1.0' in lines
        assert "rph_batch_queries_sum 2.0" in lines


# --- who may ask, and how much ----------------------------------------------------------------------


def test_a_key_is_asked_of_every_path_but_health(router):
    with served(router, api_key="secret") as url:
        body = {"queries": ["number 4"]}
        for headers in ({}, *({"Authorization": f"{a}"} for a in ("Bearer wrong", "secret", "Basic secret"))):
            answer = post(f"{url}/route", json=body, headers=headers)
            assert answer.status_code == 401 and "key" in error_of(answer)
            assert get(f"{url}/metrics", headers=headers).status_code == 401
        for scheme in ("Bearer", "bearer", "BEARER"):
            right = {"Authorization": f"{scheme} secret"}
            assert post(f"{url}/route", json=body, headers=right).status_code == 200
        assert get(f"{url}/healthz").status_code == 200


def test_without_a_key_a_page_of_a_stranger_gets_nothing(router):
    """A page may point its own name at this machine, or post a form without asking."""
    with served(router) as url:
        body = {"queries": ["number 4"]}
        assert post(f"{url}/route", json=body, headers={"Host": "evil.example"}).status_code == 421
        for host in ("127.0.0.1.evil.example", "10.0.0.1", "[::]:80", ""):
            assert post(f"{url}/route", json=body, headers={"Host": host}).status_code == 421
        for host in ("localhost:80", "LocalHost", "127.0.0.2:8000", "[::1]:80", "[::1]"):
            assert post(f"{url}/route", json=body, headers={"Host": host}).status_code == 200
        for kind, status in [
            ("text/plain", 415),
            ("application/jsonp", 415),
            ("Application/JSON; charset=utf-8", 200),
        ]:
            answer = post(f"{url}/route", content=json.dumps(body), headers={"Content-Type": kind})
            assert answer.status_code == status


def test_a_body_beyond_the_limit_is_refused_whether_its_length_is_told_or_not(router):
    limits = serve.Limits(body=1000)
    with served(router, limits=limits) as url:
        small, big = {"queries": ["number 4"]}, {"queries": ["number 4" + " " * 1000]}
        assert post(f"{url}/route", json=small).status_code == 200
        answer = post(f"{url}/route", json=big)
        assert answer.status_code == 413 and "1,000 bytes" in error_of(answer)
        pieces = (piece for piece in [b'{"queries": ["', *[b"x" * 400] * 5, b'"]}'])
        answer = post(f"{url}/route", content=pieces, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413


def test_a_body_that_does_not_come_is_not_waited_for(router, monkeypatch):
    monkeypatch.setattr(serve, "SLOW", 0.2)
    with served(router) as url, socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as sock:
        sock.sendall(
            b"POST /route HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 408")


def measured(url, name):
    """What /metrics says of it, None where it says nothing yet."""
    lines = get(f"{url}/metrics").text.splitlines()
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(f"{name} ")), None)


def counted(url, path, status):
    """How many requests /metrics counts, once it counts one."""
    name = f'rph_requests_total{{path="{path}",status="{status}"}}'
    return moments.until(lambda: measured(url, name), f"a request to {path} ends with {status}")


def ask_and_leave(url, path, body, once, whole=True):
    """A client that hangs up once that is true, without reading the answer; not `whole`: within its body."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as sock:
        sock.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode())
        sock.sendall(content if whole else content[:1])
        moments.until(once, "the request arrives")


def test_a_client_that_leaves_within_its_body_is_no_fault_of_the_servers(router):
    with served(router) as url:
        begun = partial(measured, url, "rph_requests_open")
        ask_and_leave(url, "/route", {"queries": ["number 4"]}, begun, whole=False)
        assert counted(url, "/route", 499) == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_leaves_frees_its_place_and_ends_the_upstreams_call(
    router, chat_server, monkeypatch, streamed
):
    pool = pool_of(chat_server, monkeypatch, large="hang")
    with served(router, pool=pool, limits=serve.Limits(concurrent=1)) as url:
        body = {"model": "rph", "messages": ASKED, "stream": streamed}
        ask_and_leave(url, "/v1/chat/completions", body, lambda: chat_server.seen)
        assert chat_server.left.wait(moments.PATIENCE)
        assert counted(url, "/v1/chat/completions", 499) == 1
        assert post(f"{url}/route", json={"queries": ["number 4"]}).status_code == 200
        assert measured(url, "rph_requests_open") == 0  # nothing that the server would wait for when it ends


def test_what_a_client_asked_before_it_left_is_not_scored(router, monkeypatch, waiting):
    held, sizes, real = threading.Event(), [], router.judge

    def judge(queries):
        sizes.append(len(queries))
        assert held.wait(moments.PATIENCE)
        return real(queries)

    monkeypatch.setattr(router, "judge", judge)
    with served(router) as url:
        first = threading.Thread(
            target=post,
            args=[f"{url}/route"],
            kwargs={"json": {"queries": ["number 4"]}},
        )
        first.start()
        moments.until(lambda: sizes, "the first is being scored")
        ask_and_leave(url, "/route", {"queries": ["number 5"] * 7}, lambda: waiting() == 1)
        assert counted(url, "/route", 499) == 1
        held.set()
        first.join(moments.PATIENCE)
        assert post(f"{url}/route", json={"queries": ["number 4"]}).status_code == 200
    assert sizes == [1, 1]


def test_beyond_the_limit_of_requests_the_answer_is_429(router, monkeypatch):
    held, begun, real = threading.Event(), threading.Event(), router.judge

    def judge(queries):
        begun.set()
        assert held.wait(moments.PATIENCE)
        return real(queries)

    monkeypatch.setattr(router, "judge", judge)
    first = {}
    with served(router, limits=serve.Limits(concurrent=1)) as url:

        def ask():
            first["answer"] = post(f"{url}/route", json={"queries": ["number 4"]})

        asking = threading.Thread(target=ask)
        asking.start()
        assert begun.wait(moments.PATIENCE)
        answer = post(f"{url}/route", json={"queries": ["number 4"]})
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
        assert "1 requests are being answered" in error_of(answer)
        for path in ("/healthz", "/metrics"):
            assert get(f"{url}{path}").status_code == 200
        held.set()
        asking.join(moments.PATIENCE)
        assert first["answer"].status_code == 200
        assert post(f"{url}/route", json={"queries": ["number 4"]}).status_code == 200  # the place is free


def test_who_has_its_answer_may_ask_again_at_once(router):
    with served(router, limits=serve.Limits(concurrent=1)) as url, httpx.Client(base_url=url) as client:
        body = {"queries": ["number 4"]}
        assert {client.post("/route", json=body).status_code for _ in range(100)} == {200}
        assert "rph_requests_open 0.0" in client.get("/metrics").text


# --- chat completions -------------------------------------------------------------------------------


def client_of(url, key="unused"):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


ASKED = [{"role": "system", "content": "number 1"}, {"role": "user", "content": "number 4"}]


def test_the_openai_client_gets_the_answer_of_the_chosen_model(router, chat_server, monkeypatch):
    pool = pool_of(chat_server, monkeypatch)
    with served(router, pool=pool, api_key="secret") as url:
        client = client_of(url, "secret")
        answer = client.chat.completions.create(model="rph", messages=ASKED, temperature=0.5)
        assert (answer.model, answer.choices[0].message.content) == ("large", "you said: number 4")
        cheap = client.chat.completions.create(model="rph", messages=ASKED, extra_body={"lam": 0.5})
        assert cheap.model == "small"
        with pytest.raises(openai.AuthenticationError):
            client_of(url).chat.completions.create(model="rph", messages=ASKED)
    (headers, body), (_, second) = chat_server.seen
    assert headers["Authorization"] == f"Bearer {KEY}"  # and never the client's own key
    assert body == {"model": "large-v2", "messages": ASKED, "temperature": 0.5}
    assert second == {"model": "small-v2", "messages": ASKED}


def test_the_openai_client_gets_a_stream(router, chat_server, monkeypatch):
    with served(router, pool=pool_of(chat_server, monkeypatch)) as url:
        asked = [{"role": "user", "content": [{"type": "text", "text": "number 4 line\u2028end"}]}]
        chunks = list(
            client_of(url).chat.completions.create(
                model="rph",
                messages=[*ASKED, *asked, {"role": "assistant", "content": "a b\u2028c"}],
                stream=True,
            )
        )
        assert [chunk.choices[0].delta.content for chunk in chunks] == ["a", "b\u2028c"]
        assert {chunk.model for chunk in chunks} == {"large"}


@pytest.mark.parametrize(
    ("name", "status", "told"),
    [
        ("fail", 502, "answers 500: a fault"),
        ("odd", 502, "JSONDecodeError"),
        ("limited", 429, "answers 429: too many requests"),
    ],
)
def test_what_an_upstream_does_wrong_is_told(router, chat_server, monkeypatch, name, status, told):
    with served(router, pool=pool_of(chat_server, monkeypatch, large=name)) as url:
        with pytest.raises(openai.APIStatusError) as error:
            client_of(url).chat.completions.create(model="rph", messages=ASKED)
        assert error.value.status_code == status
        assert "upstream of 'large'" in str(error.value) and told in str(error.value)


def test_our_key_at_the_upstream_is_not_the_clients_fault(router, chat_server, monkeypatch):
    pool = pool_of(chat_server, monkeypatch)
    monkeypatch.setenv("UPSTREAM_KEY", "expired")
    with served(router, pool=pool) as url:
        with pytest.raises(openai.APIStatusError, match="answers 401: wrong key") as error:
            client_of(url).chat.completions.create(model="rph", messages=ASKED)
        assert error.value.status_code == 502


def test_an_upstream_that_is_not_there_is_told(router, monkeypatch):
    monkeypatch.setenv("UPSTREAM_KEY", KEY)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nowhere = upstreams.Upstream(base_url=f"http://127.0.0.1:{port}/v1", model="m")
    with served(router, pool=dict.fromkeys(toys.MODELS, nowhere)) as url:
        with pytest.raises(openai.APIStatusError, match="ConnectError") as error:
            client_of(url).chat.completions.create(model="rph", messages=ASKED)
        assert error.value.status_code == 502


def test_a_stream_that_breaks_off_ends_with_an_error(router, chat_server, monkeypatch):
    with served(router, pool=pool_of(chat_server, monkeypatch, large="break")) as url:
        got = []
        with pytest.raises(openai.APIError, match="broke off"):
            for chunk in client_of(url).chat.completions.create(model="rph", messages=ASKED, stream=True):
                got.append(chunk.choices[0].delta.content)
        assert got == ["number"]


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"model": "gpt-4"}, 404, "ask for 'rph'"),
        ({"messages": []}, 400, "nothing to route by"),
        ({"messages": "number 4"}, 400, "nothing to route by"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "nothing to route by"),
        ({"lam": "0.5"}, 400, "not a number"),
        ({"lam": 7}, 400, "not in [0, 1]"),
        ({"lam": 10**400}, 400, "not in [0, 1]"),
        ({"stream": "false"}, 400, "stream is not a boolean"),
        ({"messages": [*ASKED, {"role": "user", "content": None}]}, 400, "the last user message has no text"),
        ({"model": ["x"]}, 404, "ask for 'rph'"),
    ],
)
def test_a_wrong_chat_request_is_told_what_is_wrong(router, chat_server, monkeypatch, changes, status, told):
    with served(router, pool=pool_of(chat_server, monkeypatch)) as url:
        body = {"model": "rph", "messages": ASKED} | changes
        answer = post(f"{url}/v1/chat/completions", json=body)
        assert answer.status_code == status and told in error_of(answer)
        assert not chat_server.seen


SAID = b'"messages": [{"role": "user", "content": "number 4"}]'


@pytest.mark.parametrize(
    "field",
    [
        b'"x": ' + b"[" * 100_000 + b"]" * 100_000,
        b'"temperature": NaN',
        b'"temperature": 1e999',
        b'"user": "\\ud83d"',
        b'"user": "\xff"',
        b'"user": ' + b"9" * 5000,
    ],
    ids=["deep", "nan", "infinite", "surrogate", "bytes", "digits"],
)
def test_a_body_that_no_json_can_hold_is_the_clients_mistake(router, chat_server, monkeypatch, field):
    with served(router, pool=pool_of(chat_server, monkeypatch)) as url:
        answer = post(
            f"{url}/v1/chat/completions",
            content=b'{"model": "rph", ' + SAID + b", " + field + b"}",
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 400 and error_of(answer)
        assert not chat_server.seen


def test_no_depth_is_our_fault(router, chat_server, monkeypatch):
    """Python's stack may hold a body when it is read and not when it is written."""
    found = set()
    with served(router, pool=pool_of(chat_server, monkeypatch, small="deep")) as url:
        for depth in range(700, 1000, 10):
            deep = b"[" * depth + b"]" * depth
            chat_server.raw["deep"] = (200, "application/json", b'{"x": %s}' % deep)
            for field in (b'"x": ' + deep, b'"lam": 0.5', b'"lam": ' + deep, b'"stream": ' + deep):
                answer = post(
                    f"{url}/v1/chat/completions",
                    content=b'{"model": "rph", ' + SAID + b", " + field + b"}",
                    headers={"Content-Type": "application/json"},
                )
                found.add(answer.status_code)
    assert found == {200, 400, 502}


# --- what an upstream may not do to a client --------------------------------------------------------


def asked_for(url, **changes):
    body = {"model": "rph", "messages": ASKED, **changes}
    return post(f"{url}/v1/chat/completions", json=body)


def test_an_upstreams_key_does_not_reach_clients(router, chat_server, monkeypatch):
    long = "x" * 490 + KEY  # cut at 500 characters, half of the key would be left
    event = b'data: {"error": {"message": "wrong key %s"}}\n\n' % KEY.encode()
    for status, kind, content in [
        (400, "application/json", json.dumps({"error": {"message": f"wrong key {KEY}"}}).encode()),
        (400, "text/plain", long.encode()),
        (500, "text/plain", f"Authorization: Bearer {KEY}".encode()),
        (200, "text/event-stream", event),
    ]:
        chat_server.raw["told"] = (status, kind, content)
        with served(router, pool=pool_of(chat_server, monkeypatch, large="told")) as url:
            answer = asked_for(url, stream=status == 200)
            assert KEY[:5] not in answer.text and ("[key]" in answer.text or content == long.encode())


def test_a_key_that_no_header_can_hold_does_not_reach_clients(router, chat_server, monkeypatch):
    pool = pool_of(chat_server, monkeypatch)
    monkeypatch.setenv("UPSTREAM_KEY", f"{KEY}\n")
    with served(router, pool=pool) as url:
        answer = asked_for(url)
        assert answer.status_code == 502 and "cannot be written" in error_of(answer)
        assert KEY not in answer.text


@pytest.mark.parametrize("key", ["sk-1\n", " sk-1", "sk-1\t", "sk-\n1", "sk-\u00e9", "sk-\x7f1", "\u00a0"])
def test_a_key_with_what_no_header_holds_is_refused_at_the_start(rph, tmp_path, monkeypatch, key):
    monkeypatch.setenv("A_KEY", key)
    large = {"base_url": "https://api.example/v1", "model": "l", "api_key_env": "A_KEY"}
    (tmp_path / "u.yaml").write_text(yaml.safe_dump(described(large=large)))
    with pytest.raises(UsageError, match="A_KEY holds no usable key") as error:
        upstreams.read(tmp_path / "u.yaml", toys.MODELS)
    assert "sk-" not in str(error.value)
    code, _, error = rph("serve", tmp_path, "--api-key-env", "A_KEY")
    assert code == 2 and "A_KEY holds no usable key" in error and "sk-" not in error


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    ("status", "content", "found", "told"),
    [
        (200, b'{"x": NaN}', 502, "NaN, no finite number"),
        (200, b'{"x": 1e999}', 502, "1e999, no finite number"),
        (200, b'{"x": %s}' % DEEP, 502, "nested too deeply"),
        (200, b"[]", 502, "no JSON object"),
        (200, b'{"x": "\\ud83d"}', 200, "\\ud83d"),
        (400, b'{"error": {"message": "half \\ud83d"}}', 400, "half \\ud83d"),
        (400, b'{"error": %s}' % DEEP, 400, "answers 400"),
        (400, b'{"error": {"message": NaN}}', 400, "answers 400"),
    ],
    ids=["nan", "infinite", "deep", "list", "surrogate", "said surrogate", "said deep", "said nan"],
)
def test_an_upstreams_odd_json_is_never_our_fault(
    router, chat_server, monkeypatch, status, content, found, told
):
    chat_server.raw["odd"] = (status, "application/json", content)
    with served(router, pool=pool_of(chat_server, monkeypatch, large="odd")) as url:
        answer = asked_for(url)
        assert answer.status_code == found and told in answer.text
        assert answer.headers["content-type"] == "application/json"


CHUNK = (
    b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [%s]}\n\n'
)
HALF = CHUNK % b'{"index": 0, "delta": {"content": "a"}, "finish_reason": null}'
WHOLE = CHUNK % b'{"index": 0, "delta": {}, "finish_reason": "stop"}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        HALF,
        HALF + b'data: {"id": "1"',
        HALF + b'data: {"x": NaN}\n\n',
        HALF + b"data: " + DEEP + b"\n\n",
        HALF + b'data: {"error": {"message": "%s"}}\n\n' % (b"x" * 10),
        HALF.rstrip() + b"\n",
    ],
    ids=["empty", "half", "in an event", "nan", "deep", "error", "open event"],
)
def test_a_stream_that_ends_early_ends_with_an_error(router, chat_server, monkeypatch, content):
    chat_server.raw["early"] = (200, "Text/Event-Stream; charset=utf-8", content)
    with served(router, pool=pool_of(chat_server, monkeypatch, large="early")) as url:
        got = []
        with pytest.raises(openai.APIError, match=r"broke off|xxxxxxxxxx"):
            for chunk in client_of(url).chat.completions.create(model="rph", messages=ASKED, stream=True):
                got += [choice.delta.content for choice in chunk.choices]
        assert got == (["a"] if HALF.rstrip() in content else [])
        assert asked_for(url, stream=True).text.count('"error"') == 1


@pytest.mark.parametrize(
    "content",
    [
        HALF + WHOLE,
        HALF + b"data: [DONE]\n\n",
        HALF + b"data: [DONE]",
        HALF + WHOLE + b"data: [DONE]\r\n\r\n",
    ],
)
def test_a_stream_that_says_its_end_is_whole(router, chat_server, monkeypatch, content):
    chat_server.raw["whole"] = (200, "text/event-stream", content)
    with served(router, pool=pool_of(chat_server, monkeypatch, large="whole")) as url:
        chunks = list(client_of(url).chat.completions.create(model="rph", messages=ASKED, stream=True))
        assert chunks[0].choices[0].delta.content == "a"
        assert "error" not in asked_for(url, stream=True).text


@pytest.mark.parametrize("kind", ["application/json", "text/html", "text/event-streams"])
def test_what_is_no_stream_is_not_passed_on_as_one(router, chat_server, monkeypatch, kind):
    chat_server.raw["none"] = (200, kind, b"<html>" if "html" in kind else b"{}")
    with served(router, pool=pool_of(chat_server, monkeypatch, large="none")) as url:
        answer = asked_for(url, stream=True)
        assert answer.status_code == 502 and f"answers with {kind!r}" in error_of(answer)


def test_without_upstreams_there_is_no_chat(router):
    with served(router) as url:
        answer = post(f"{url}/v1/chat/completions", json={"model": "rph", "messages": ASKED})
        assert answer.status_code == 501 and "--upstreams" in error_of(answer)


# --- the file of upstreams --------------------------------------------------------------------------


def described(**changes):
    return {m: {"base_url": "http://localhost:1/v1/", "model": m} for m in toys.MODELS} | changes


def test_upstreams_are_read(tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", "k")
    large = {"base_url": "https://api.example/v1", "model": "l", "api_key_env": "A_KEY"}
    (tmp_path / "u.yaml").write_text(yaml.safe_dump(described(large=large)))
    found = upstreams.read(tmp_path / "u.yaml", toys.MODELS)
    assert found["small"].url == "http://localhost:1/v1/chat/completions" and found["small"].headers() == {}
    assert found["large"].headers() == {"Authorization": "Bearer k"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            yaml.safe_dump({k: v for k, v in described().items() if k != "large"}),
            "without an upstream: large",
        ),
        (yaml.safe_dump(described(other=described()["small"])), "not in the pool: other"),
        (yaml.safe_dump(described(large={"base_url": "ftp://x", "model": "m"})), "large.base_url"),
        (yaml.safe_dump(described(large={"base_url": "http://x", "model": "m", "key": "k"})), "large.key"),
        (
            yaml.safe_dump(described(large={"base_url": "http://x/v1?a=b", "model": "m"})),
            "a query or a fragment",
        ),
        (
            yaml.safe_dump(described(large={"base_url": "http://x/v1#a", "model": "m"})),
            "a query or a fragment",
        ),
        (
            yaml.safe_dump(described(large={"base_url": "http://x", "model": "m", "api_key_env": ""})),
            "large.api_key_env",
        ),
        (
            yaml.safe_dump(described(large={"base_url": "http://x", "model": "m", "api_key_env": "NO_SUCH"})),
            "not set in the environment: NO_SUCH",
        ),
        ("- a list", "valid dictionary"),
        ("{", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_of_upstreams_is_told_what_is_wrong(tmp_path, content, told):
    if content is not None:
        (tmp_path / "u.yaml").write_text(content)
    with pytest.raises(UsageError) as error:
        upstreams.read(tmp_path / "u.yaml", toys.MODELS)
    assert told in str(error.value)


# --- the command ------------------------------------------------------------------------------------


def test_other_machines_are_let_in_only_with_a_key(rph, tmp_path, monkeypatch):
    out, _ = exported.write(tmp_path)
    code, _, error = rph("serve", out, "--host", "0.0.0.0")
    assert code == 2 and "--api-key-env" in error
    monkeypatch.delenv("NO_SUCH", raising=False)
    code, _, error = rph("serve", out, "--host", "0.0.0.0", "--api-key-env", "NO_SUCH")
    assert code == 2 and "NO_SUCH holds no key" in error
    assert [
        serve.is_loopback(h)
        for h in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "0.0.0.0", "::", "me", "")
    ] == [*[True] * 5, *[False] * 4]


def test_a_port_that_is_taken_is_a_usage_error(rph, tmp_path):
    out, _ = exported.write(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, error = rph("serve", out, "--plugin", tmp_path / "plugin.py", "--port", port)
    assert code == 2 and f"cannot listen at 127.0.0.1 port {port}" in error


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn", "prometheus_client", "httpx"])
def test_a_missing_library_names_the_extra(rph, tmp_path, monkeypatch, missing):
    for module in [
        m
        for m in sys.modules
        if m in ("rph.deploy.serve", "rph.deploy.upstreams") or m.split(".")[0] == missing
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("serve", "upstreams"):
        monkeypatch.delattr(importlib.import_module("rph.deploy"), name, raising=False)
    code, _, error = rph("serve", tmp_path)
    assert code == 2 and install("serve") in error and missing in error


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(tmp_path, chat_server, told):
    out, _ = exported.write(tmp_path)
    names = {m: {"base_url": chat_server.url, "model": m, "api_key_env": "UPSTREAM_KEY"} for m in toys.MODELS}
    (tmp_path / "u.yaml").write_text(yaml.safe_dump(names))
    command = [sys.executable, "-m", "rph", "serve", out, "--port", "0", "--plugin", tmp_path / "plugin.py"]
    command += ["--lam", "0.5", "--upstreams", tmp_path / "u.yaml", "--api-key-env", "MY_KEY"]
    environment = {**os.environ, "UPSTREAM_KEY": KEY, "MY_KEY": "secret"}
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stderr.readline()
        assert line.startswith("rph serve: http://127.0.0.1:"), line + process.stderr.read()
        url = line.split()[-1]
        answer = client_of(url, "secret").chat.completions.create(model="rph", messages=ASKED)
        assert answer.model == "small"
        process.send_signal(told)
        assert process.wait(moments.PATIENCE) == 0
    finally:
        process.kill()
        process.stderr.close()


def test_scores_in_one_batch_are_those_of_each_request(router):
    with served(router) as url:
        answers = {}

        def ask(i):
            answers[i] = post(f"{url}/route", json={"queries": [f"number {i}"] * (i % 3 + 1)}).json()

        asking = [threading.Thread(target=ask, args=[i]) for i in range(24)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(moments.PATIENCE)
    for i, answer in answers.items():
        wanted = router.scores([f"number {i}"] * (i % 3 + 1))
        found = np.array([[one["scores"][m] for m in toys.MODELS] for one in answer["routes"]], np.float32)
        assert found.shape == wanted.shape and np.allclose(found, wanted, atol=1e-6)
