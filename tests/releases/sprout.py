"""SPROUT in the publisher's layout, with queries made up here: three files of train, one of validation, one of test."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
from rph_plugins.benchmarks import sprout

COUNTS = (9, 4, 5)
MODELS = 13
FILES = {  # path -> the numbers of its queries
    "data/train-00000-of-00003.parquet": range(4),
    "data/train-00001-of-00003.parquet": range(4, 7),
    "data/train-00002-of-00003.parquet": range(7, 9),
    "data/validation-00000-of-00001.parquet": range(9, 13),
    "data/test-00000-of-00001.parquet": range(13, 18),
}
SCORES = (0.0, 0.4, 0.5, 1.0)
STRUCT = pa.struct(
    [
        ("num_input_tokens", pa.int64()),
        ("num_output_tokens", pa.int64()),
        ("response", pa.string()),
        ("score", pa.float64()),
        ("judge_response", pa.string()),
    ]
)
TEXTS = ("key", "dataset", "dataset_level", "dataset_idx", "prompt", "golden_answer")
SCHEMA = pa.schema([(name, pa.string()) for name in TEXTS] + [(model, STRUCT) for model in sprout.MODELS])


def row(i):
    """Query i; model m: score SCORES[(i + m) % 4], 100 + i input and 10 i + m output tokens."""
    return {
        "key": f"key-{i}",
        "dataset": "openhermes/teknium" if i % 2 else "lighteval/MATH/all",
        "dataset_level": None,
        "dataset_idx": str(1000 + i),
        "prompt": f"Question {i}:\nwhat is {i} + {i}?",
        "golden_answer": str(2 * i),
    } | {
        model: {
            "num_input_tokens": 100 + i,
            "num_output_tokens": 10 * i + m,
            "response": f"It is {2 * i}.",
            "score": SCORES[(i + m) % 4],
            "judge_response": '{"score": ...}',
        }
        for m, model in enumerate(sprout.MODELS)
    }


def tables():
    """Rows by path, to be changed and written."""
    return {path: [row(i) for i in numbers] for path, numbers in FILES.items()}


def write(rows, schema=SCHEMA):
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), out)
    return out.getvalue()


def files():
    return {path: write(rows) for path, rows in tables().items()}
