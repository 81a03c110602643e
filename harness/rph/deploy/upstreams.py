"""Where the models of a pool are served, and how a chat request is passed on to one of them.

A file names an OpenAI-compatible server for every model:

    gpt-4o:
      base_url: https://api.openai.com/v1
      model: gpt-4o-2024-08-06
      api_key_env: OPENAI_API_KEY
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import yaml
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter, ValidationError, field_validator

from rph.errors import RphError, UsageError

TIMEOUT = httpx.Timeout(
    600, connect=10
)  # seconds without a byte: a long answer that is not streamed takes minutes


class Upstream(BaseModel):
    """One model's server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: HttpUrl  # /chat/completions comes after it
    model: str  # its name there
    # The environment variable that holds the key; None: no key is sent.
    api_key_env: Annotated[str, Field(min_length=1)] | None = None

    @field_validator("base_url")
    @classmethod
    def _ends_with_a_path(cls, url: HttpUrl) -> HttpUrl:
        if url.query is not None or url.fragment is not None:
            raise ValueError("has a query or a fragment, and /chat/completions cannot come after one")
        return url

    @property
    def key(self) -> str | None:
        return None if self.api_key_env is None else os.environ[self.api_key_env]

    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    @property
    def url(self) -> str:
        return f"{str(self.base_url).rstrip('/')}/chat/completions"

    def without_key(self, said: Any) -> Any:
        """What the upstream said, a text or JSON, with [key] wherever it repeats the key."""
        if self.key is None:
            return said
        if isinstance(said, dict):
            return {name: self.without_key(value) for name, value in said.items()}
        if isinstance(said, list):
            return [self.without_key(value) for value in said]
        if isinstance(said, str):
            # Errors quote what they tell, in Python's way or JSON's.
            for form in {self.key, repr(self.key)[1:-1], json.dumps(self.key)[1:-1]}:
                said = said.replace(form, "[key]")
        return said

    def refused(self, chosen: str, why: str, status: int = 502) -> Refused:
        """The error that says `why`, fit for a client's eyes."""
        return Refused(chosen, self.without_key(why), status)


class Refused(RphError):
    """An upstream did not answer, or not with what was asked for. `status` is for our own answer."""

    def __init__(self, model: str, why: str, status: int = 502) -> None:
        super().__init__(f"the upstream of {model!r} failed", why=why)
        self.status = status


def read(path: Path, models: Sequence[str]) -> dict[str, Upstream]:
    """The upstreams of all models of a pool. UsageError where one is missing or its key is not in the environment."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = TypeAdapter(dict[str, Upstream]).validate_python(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read", why=" ".join(str(error).split())) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"{path} does not describe upstreams",
            why=f"{where}: {first['msg']}" if where else first["msg"],
            fix="write for every model: base_url, model and, where one is needed, api_key_env",
        ) from error
    missing, unknown = [m for m in models if m not in found], sorted(set(found) - set(models))
    if missing or unknown:
        raise UsageError(
            f"{path} does not fit the router's pool",
            why=f"without an upstream: {', '.join(missing) or 'none'}; not in the pool: {', '.join(unknown) or 'none'}",
            fix="name every model of the pool once: the router may choose any of them",
        )
    named = sorted({u.api_key_env for u in found.values() if u.api_key_env is not None})
    unset = [name for name in named if not os.environ.get(name)]
    if unset:
        raise UsageError(
            f"{path} names keys that are not there",
            why=f"not set in the environment: {', '.join(unset)}",
            fix="set them, or leave api_key_env out where the server asks for no key",
        )
    for name in named:
        check_key(name, os.environ[name])
    return found


def check_key(variable: str, key: str) -> None:
    """UsageError where a variable's key cannot stand in a header. The message names the variable, never the key."""
    if not (key.isascii() and key.isprintable() and key == key.strip()):
        raise UsageError(
            f"the environment variable {variable} holds no usable key",
            why="a key is printable ASCII, with no white space or line end around it",
            fix=f'set it again without them, for example {variable}="$(cat key.txt)"',
        )


async def complete(
    client: httpx.AsyncClient, upstream: Upstream, body: Mapping[str, Any], chosen: str
) -> bytes:
    """The answer of the chosen model as JSON, under the model's name in the pool. Raises Refused."""
    response = await _post(client, upstream, body, chosen)
    try:
        await response.aread()
        answer = from_json(response.content)
        if not isinstance(answer, dict):
            raise upstream.refused(chosen, "its answer is no JSON object")
        return to_json({**answer, "model": chosen})
    except (httpx.HTTPError, ValueError) as error:
        raise upstream.refused(chosen, _told(error)) from error
    finally:
        await response.aclose()


async def stream(
    client: httpx.AsyncClient, upstream: Upstream, body: Mapping[str, Any], chosen: str
) -> AsyncIterator[bytes]:
    """The answer as server-sent events, line by line as they come, under the model's name in the pool.

    Raises Refused where the upstream refuses or sends no events. Where it breaks off later, the last event is an error.
    """
    response = await _post(client, upstream, body, chosen)
    kind = response.headers.get("content-type", "")
    if not is_type(kind, "text/event-stream"):
        await response.aclose()
        raise upstream.refused(
            chosen, f"it was asked for a stream and answers with {kind[:100] or 'no type'!r}"
        )

    async def lines() -> AsyncIterator[bytes]:
        rest, ended = b"", False
        try:
            async for piece in response.aiter_bytes():
                *whole, rest = (rest + piece).split(
                    b"\n"
                )  # no other character ends a line: an answer may hold them
                for line in whole:
                    passed, last = _passed_on(line, upstream, chosen)
                    ended = ended or last
                    yield passed + b"\n"
            if rest:
                passed, last = _passed_on(rest, upstream, chosen)
                ended = ended or last
                yield passed + b"\n\n"
            if not ended:  # a connection that closes looks like the end, and half an answer like a whole one
                yield _broke_off(upstream.refused(chosen, "it broke off: no event ended the answer"))
        except (httpx.HTTPError, ValueError, TypeError, RecursionError) as error:
            yield _broke_off(upstream.refused(chosen, f"it broke off: {_told(error)}"))
        finally:
            await response.aclose()

    return lines()


def _passed_on(line: bytes, upstream: Upstream, chosen: str) -> tuple[bytes, bool]:
    """A line of an event stream, and whether it ends the answer. Where it carries JSON, it gets the model's name in
    the pool. ValueError or TypeError for anything else in JSON's place."""
    field, _, data = line.partition(b":")
    if field != b"data":
        return line, False
    if data.strip() == b"[DONE]":
        return line, True
    event = from_json(data)
    if not isinstance(event, dict):
        raise TypeError("an event is no JSON object")
    failed = event.get("error") is not None
    if failed:
        event = upstream.without_key(event)
    return b"data: " + to_json({**event, "model": chosen}), failed or _is_finished(event)


def _is_finished(event: Mapping[str, Any]) -> bool:
    choices = event.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, dict) and choice.get("finish_reason") is not None for choice in choices
    )


def _broke_off(error: Refused) -> bytes:
    """The event that ends a broken stream; the empty line ends the event that may have been under way."""
    return b"\ndata: " + to_json(error_body(str(error), "upstream_error")) + b"\n\n"


async def _post(
    client: httpx.AsyncClient, upstream: Upstream, body: Mapping[str, Any], chosen: str
) -> httpx.Response:
    """The upstream's answer, its head read and its status 200. What it says is wrong with the request is passed on."""
    try:
        content = to_json({**body, "model": upstream.model})
    except ValueError as error:
        raise UsageError("the body cannot be passed on", why=str(error)) from error
    headers = {"Content-Type": "application/json", **upstream.headers()}
    try:
        response = await client.send(
            client.build_request("POST", upstream.url, content=content, headers=headers), stream=True
        )
    except httpx.HTTPError as error:
        raise upstream.refused(chosen, _told(error)) from error
    if response.status_code == 200:
        return response
    try:
        await response.aread()
    except httpx.HTTPError as error:
        raise upstream.refused(chosen, _told(error)) from error
    finally:
        await response.aclose()
    # A wrong key or a fault of the upstream's is none of the client's.
    ours = response.status_code in (400, 404, 409, 413, 422, 429)
    why = f"it answers {response.status_code}: {_said(response, upstream)}"
    raise upstream.refused(chosen, why, response.status_code if ours else 502)


def _told(error: Exception) -> str:
    """An exception as one line for the client."""
    if isinstance(error, httpx.LocalProtocolError):  # its text quotes the headers we send, with the key
        return "LocalProtocolError: the request to it cannot be written"
    return f"{type(error).__name__}: {error}"


def _said(response: httpx.Response, upstream: Upstream) -> str:
    """The message of an error in OpenAI's form, else the beginning of the text."""
    try:
        message = from_json(response.content)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = None
    if isinstance(message, str):
        return message
    whole: str = upstream.without_key(response.text)  # before it is cut: half a key is no key to look for
    return " ".join(whole[:500].split())


# --- JSON -------------------------------------------------------------------------------------------


def from_json(text: bytes) -> Any:
    """JSON as its standard has it. ValueError for anything else, and for what no float and no stack holds."""
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def to_json(content: Any) -> bytes:
    """JSON in ASCII: half of a surrogate pair has no UTF-8. ValueError where it is nested too deeply."""
    try:
        return json.dumps(content, allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("its JSON is nested too deeply") from error


def _finite(text: str) -> float:
    """Python reads NaN and Infinity, which are no JSON, and 1e999 as infinite."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"its JSON has {text[:20]}, no finite number")
    return number


def is_type(header: str, wanted: str) -> bool:
    """Whether a Content-Type header names this type, in whatever case and with whatever parameters."""
    return header.partition(";")[0].strip().lower() == wanted


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
