"""Where the models of a pool are served, and how a chat request is passed on to one of them.

A file names an OpenAI-compatible server for every model:

    gpt-4o:
      base_url: https://api.openai.com/v1
      model: gpt-4o-2024-08-06
      api_key_env: OPENAI_API_KEY
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml
from pydantic import BaseModel, ConfigDict, HttpUrl, TypeAdapter, ValidationError

from rph.errors import RphError, UsageError

TIMEOUT = httpx.Timeout(
    600, connect=10
)  # seconds without a byte: a long answer that is not streamed takes minutes


class Upstream(BaseModel):
    """One model's server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: HttpUrl  # /chat/completions comes after it
    model: str  # its name there
    api_key_env: str | None = None  # the environment variable that holds the key; None: no key is sent

    def headers(self) -> dict[str, str]:
        return {} if self.api_key_env is None else {"Authorization": f"Bearer {os.environ[self.api_key_env]}"}

    @property
    def url(self) -> str:
        return f"{str(self.base_url).rstrip('/')}/chat/completions"


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
    unset = sorted(
        {u.api_key_env for u in found.values() if u.api_key_env and not os.environ.get(u.api_key_env)}
    )
    if unset:
        raise UsageError(
            f"{path} names keys that are not there",
            why=f"not set in the environment: {', '.join(unset)}",
            fix="set them, or leave api_key_env out where the server asks for no key",
        )
    return found


async def complete(
    client: httpx.AsyncClient, upstream: Upstream, body: Mapping[str, Any], chosen: str
) -> dict[str, Any]:
    """The answer of the chosen model, under its name in the pool. Raises Refused."""
    response = await _post(client, upstream, body, chosen)
    try:
        await response.aread()
        answer = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise Refused(chosen, f"{type(error).__name__}: {error}") from error
    finally:
        await response.aclose()
    if not isinstance(answer, dict):
        raise Refused(chosen, "its answer is no JSON object")
    return {**answer, "model": chosen}


async def stream(
    client: httpx.AsyncClient, upstream: Upstream, body: Mapping[str, Any], chosen: str
) -> AsyncIterator[bytes]:
    """The answer as server-sent events, line by line as they come, under the model's name in the pool.

    Raises Refused where the upstream refuses. Where it breaks off later, the last event is an error.
    """
    response = await _post(client, upstream, body, chosen)

    async def lines() -> AsyncIterator[bytes]:
        rest = b""
        try:
            async for piece in response.aiter_bytes():
                *whole, rest = (rest + piece).split(
                    b"\n"
                )  # no other character ends a line: an answer may hold them
                for line in whole:
                    yield _renamed(line, chosen) + b"\n"
            yield rest
        except (httpx.HTTPError, ValueError, TypeError) as error:
            refused = Refused(chosen, f"it broke off: {type(error).__name__}: {error}")
            yield f"data: {json.dumps(error_body(str(refused), 'upstream_error'))}\n\n".encode()
        finally:
            await response.aclose()

    return lines()


def _renamed(line: bytes, chosen: str) -> bytes:
    """A line of an event stream; where it carries JSON, with the model's name in the pool. ValueError or TypeError for
    anything else in JSON's place."""
    field, _, data = line.partition(b":")
    if field != b"data" or data.strip() == b"[DONE]":
        return line
    event = json.loads(data)
    if not isinstance(event, dict):
        raise TypeError("an event is no JSON object")
    return f"data: {json.dumps({**event, 'model': chosen})}".encode()


async def _post(
    client: httpx.AsyncClient, upstream: Upstream, body: Mapping[str, Any], chosen: str
) -> httpx.Response:
    """The upstream's answer, its head read and its status 200. What it says is wrong with the request is passed on."""
    request = client.build_request(
        "POST", upstream.url, json={**body, "model": upstream.model}, headers=upstream.headers()
    )
    try:
        response = await client.send(request, stream=True)
        if response.status_code == 200:
            return response
        await response.aread()
    except httpx.HTTPError as error:
        raise Refused(chosen, f"{type(error).__name__}: {error}") from error
    await response.aclose()
    # A wrong key or a fault of the upstream's is none of the client's.
    ours = response.status_code in (400, 404, 409, 413, 422, 429)
    raise Refused(
        chosen, f"it answers {response.status_code}: {_said(response)}", response.status_code if ours else 502
    )


def _said(response: httpx.Response) -> str:
    """The message of an error in OpenAI's form, else the beginning of the text."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(response.text[:500].split())


def error_body(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
