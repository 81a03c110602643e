"""R2-Bench in the publisher's layout, with queries made up here: ten models' files of one budget."""

import csv
import io

from rph_plugins.benchmarks import r2

COUNTS = (12, 2, 6)
MODELS = 10
N = 20
HEADER = (  # as the authors' scripts write it
    "prompts_id",
    "key",
    "original_prompt",
    "templated_prompt",
    "golden_answer",
    "response",
    "actual_token_count",
    "judge_raw",
    "correctness_score",
)
SCORES = ("0.0", "0.4", "0.5", "1.0")


def text(i):
    return f"Question {i}:\nwhat is {i} + {i}?"


def row(i, m):
    """Query i (prompts_id i + 1) and model m: score SCORES[(i + m) % 4], 10 i + m output tokens, ceil(l / 4) input."""
    return {
        "prompts_id": str(i + 1),
        "key": f"made-up/{i}",
        "original_prompt": text(i),
        "templated_prompt": f"{text(i)}\n\nUse at most 4000 tokens.",
        "golden_answer": str(2 * i),
        "response": f'It is "{2 * i}",\nas you see.',
        "actual_token_count": str(10 * i + m),
        "judge_raw": '{"correctness_score": ' + SCORES[(i + m) % 4] + "}",
        "correctness_score": SCORES[(i + m) % 4],
    }


def tables():
    """Rows by path, to be changed and written."""
    return {file.path: [row(i, m) for i in range(N)] for m, file in enumerate(r2.files(r2.BUDGET))}


def write(rows, header=HEADER):
    out = io.StringIO(newline="")
    table = csv.DictWriter(out, header, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return out.getvalue().encode()


def files():
    return {path: write(rows) for path, rows in tables().items()}
