"""Nine-by-30k in the form of `rph.data.nine`, made up: train as JSON lines, val and test as Parquet."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

MODELS = 9
COUNTS = (6, 2, 3)  # train, val, test
NAMES = (
    "deepseek-v3.2",
    "gemma-3n-e4b-it",
    "llama-3.3-70b-instruct",
    "minimax-m2.5",
    "glm-4.5-air",
    "qwen3-235b-a22b-2507",
    "qwen3-coder-next",
    "grok-4.1-fast",
    "mimo-v2-flash",
)
QUERIES = ("2 + 2 = ?", "Ist Wasser\nnass?", "2026-01-01", "Schreibe « ja ».", 'Say "no".', "水")


def row(i):
    """Query i of all: model m is right where (i + m) % 3, and its call costs i + m micro-dollars."""
    return {
        "query_id": f"2026-01-{i + 1:02d}",  # text, though it looks like a day
        "query": f"{QUERIES[i % 6]} ({i})",
        "source": "GSM8K" if i % 2 else "MMLU",
        **{f"correct/{name}": int((i + m) % 3 > 0) for m, name in enumerate(NAMES)},
        **{f"cost/{name}": (i + m) * 1e-6 for m, name in enumerate(NAMES)},
    }


def rows():
    every = [row(i) for i in range(sum(COUNTS))]
    every[1]["correct/minimax-m2.5"] = None  # not observed
    every[2]["cost/glm-4.5-air"] = None
    return {"train": every[:6], "val": every[6:8], "test": every[8:]}


def as_jsonl(lines):
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def as_parquet(lines):
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(lines), content)
    return content.getvalue()


def files():
    made = rows()
    return {
        "train.jsonl": as_jsonl(made["train"]),
        "val.parquet": as_parquet(made["val"]),
        "test.parquet": as_parquet(made["test"]),
    }
