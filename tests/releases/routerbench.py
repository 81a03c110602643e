"""RouterBench in the publisher's layout, with queries made up here: a pickled frame per number of shots."""

import io

import pandas as pd
from rph_plugins.benchmarks.routerbench import MODELS as NAMES

COUNTS = (24, 4, 12)
MODELS = 11
COST_ORDER = (  # the publisher's, which is not that of the scores
    "gpt-3.5-turbo-1106",
    "claude-instant-v1",
    "claude-v1",
    "claude-v2",
    "gpt-4-1106-preview",
    "meta/llama-2-70b-chat",
    "mistralai/mixtral-8x7b-chat",
    "zero-one-ai/Yi-34B-Chat",
    "WizardLM/WizardLM-13B-V1.2",
    "meta/code-llama-instruct-34b-chat",
    "mistralai/mistral-7b-chat",
)


def made_up(n=40):
    """A frame of the published 37 columns. Model m scores 1 on query i where (i + m) % 3; it costs (m + 1) mills."""
    frame = pd.DataFrame(index=pd.RangeIndex(n))
    frame["sample_id"] = pd.Series([f"mmlu.val.{i}" for i in range(n)], dtype=object)
    frame["prompt"] = pd.Series([f"['Question {i}?\\nIt\\'s short.']" for i in range(n)], dtype=object)
    frame["eval_name"] = pd.Series(["mmlu" if i % 2 else "mbpp" for i in range(n)], dtype=object)
    for m, model in enumerate(NAMES):
        frame[model] = [float((i + m) % 3 > 0) for i in range(n)]
    for model in COST_ORDER:
        frame[f"{model}|model_response"] = pd.Series(["['A']"] * n, dtype=object)
    for model in COST_ORDER:
        frame[f"{model}|total_cost"] = (NAMES.index(model) + 1) / 1000
    frame["oracle_model_to_route_to"] = pd.Series(["no_model_correct"] * n, dtype=object)
    frame.columns = frame.columns.astype(object)
    return frame


def files():
    """The 0-shot file. Its sha256 is not the published one: the loader must be told, or refuse it."""
    content = io.BytesIO()
    made_up().to_pickle(content)
    return {"routerbench_0shot.pkl": content.getvalue()}
