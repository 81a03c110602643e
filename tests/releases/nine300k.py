"""Nine-by-300k in the form of `rph.data.nine`, made up: a sparse train split, val and test of the made-up Nine-by-30k."""

from tests.releases import nine30k

MODELS = 9
COUNTS = (8, 2, 3)  # train, val, test


def train():
    """Query i of another range was put to the models m with m % 3 == i % 3 alone."""
    made = [nine30k.row(i) | {"query_id": f"more-{i}"} for i in range(20, 28)]
    for i, row in enumerate(made):
        for m, name in enumerate(nine30k.NAMES):
            if m % 3 != i % 3:
                row[f"correct/{name}"] = row[f"cost/{name}"] = None
    return made


def files():
    return nine30k.files() | {"train.jsonl": nine30k.as_jsonl(train())}
