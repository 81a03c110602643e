"""200 clients at once on `rph serve`: errors, latency, and whether memory grows.

A server of its own, with kNN on lsa over the synthetic benchmark; the clients are this process. `--requests 100000` takes
many minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from tables import Column, Report

CLIENTS = 200
LIMIT = 60.0  # seconds that a request may take
HEAD = (
    b"POST /route HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
PARTS = 5  # of the run: memory is read after each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--concurrent", type=int, default=256, help="--max-concurrent of the server")
    arguments = parser.parse_args()
    with Report(__file__) as report, tempfile.TemporaryDirectory() as folder:
        os.environ["RPH_HOME"] = folder
        server, url = started(Path(folder), arguments.concurrent)
        try:
            table = report.table(
                f"{CLIENTS} clients, POST /route of one query each, kNN on lsa",
                Column("requests"),
                Column("not 200"),
                Column("requests/s", digits=0),
                Column("server's CPU per request", "ms", 2),
                Column("p50", "ms", 0),
                Column("p99", "ms", 0),
                Column("server's memory", "MB", 0),
            )
            done = 0
            for _ in range(PARTS):
                begun, busy = time.perf_counter(), cpu_seconds(server.pid)
                statuses, seconds = asyncio.run(soaked(url, arguments.requests // PARTS))
                took = time.perf_counter() - begun
                done += len(statuses)
                cuts = statistics.quantiles(seconds, n=100)
                table.add(
                    done,
                    sum(status != 200 for status in statuses),
                    len(statuses) / took,
                    1e3 * (cpu_seconds(server.pid) - busy) / len(statuses),
                    1e3 * cuts[49],
                    1e3 * cuts[98],
                    memory(server.pid) / 1e6,
                )
            print(batches(url))
        finally:
            server.terminate()
            server.wait()


def started(folder: Path, concurrent: int) -> tuple[subprocess.Popen[str], str]:
    """An exported router, served on a free port: the process and its address."""
    rph = [sys.executable, "-m", "rph"]
    cell = ["--router", "knn", "--bench", "synthetic:n=5000", "--encoder", "lsa", "--protocol", "smoke"]
    subprocess.run([*rph, "eval", *cell], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [*rph, "export", *cell, "-o", str(folder / "router")], check=True, stdout=subprocess.DEVNULL
    )
    command = [*rph, "serve", str(folder / "router"), "--port", "0", "--max-concurrent", str(concurrent)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = server.stderr.readline()
    if not line.startswith("rph serve: "):
        sys.exit(line + server.stderr.read())
    return server, line.split()[-1]


async def soaked(url: str, requests: int) -> tuple[list[int], list[float]]:
    """The status (0: no answer) and the seconds of each request, each client's one after the other.

    Written on sockets: a client library's pool of 200 connections takes more time than the server.
    """
    host, port = url.removeprefix("http://").split(":")
    statuses: list[int] = []
    seconds: list[float] = []
    left = iter(range(requests))

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for number in left:
            body = json.dumps({"queries": [f"a question about topic {number % 997}"], "lam": 0.2}).encode()
            begun = time.perf_counter()
            try:
                async with asyncio.timeout(LIMIT):
                    writer.write(HEAD % len(body) + body)
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = re.search(rb"content-length: (\d+)", head)
                    await reader.readexactly(int(length[1]) if length else 0)
                    status = int(head.split(b" ", 2)[1])
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                status = 0
                reader, writer = await asyncio.open_connection(host, int(port))
            statuses.append(status)
            seconds.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return statuses, seconds


def batches(url: str) -> str:
    """How many queries were scored together, on average, as the server itself counts."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    total, count = (
        float(next(line for line in lines if line.startswith(f"rph_batch_queries_{what}")).split()[1])
        for what in ("sum", "count")
    )
    return f"\n{total / count:.1f} queries were scored together on average"


def cpu_seconds(pid: int) -> float:
    """What the process has used so far, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Bytes of memory that the process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
