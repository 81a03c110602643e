"""EmbedLLM in the publisher's layout, made up: ten questions, four models whose order is not that of their ids."""

import csv
import io

MODELS = 4
COUNTS = (5, 2, 2)  # train, val, test
ORDER = {3: "org__zeta-7b", 0: "org__alpha", 2: "other__beta-2b-it", 1: "org__gamma"}  # model_id -> name
PROMPTS = {  # in the order of question_order.csv
    20: "What is 2 + 2?\nAnswer with a number.",
    10: 'Which word, "cat" or "dog", comes first?',
    30: "None",
    11: "Qui a écrit « Les Misérables » ?",
    40: "Name a prime above 10.",
    12: "Is water wet?",
    31: "1.0",
    13: "How many legs has a spider?",
    41: "Translate 水 into English.",
    99: "In no split.",
}
SPLITS = {"train": (10, 11, 12, 13, 20), "val": (30, 31), "test": (40, 41)}
HEADER = ("prompt_id", "prompt", "model_id", "model_name", "category", "label")
AGAIN = ((10, 0, 1), (10, 0, 1), (10, 1, 0), (10, 1, 0), (10, 2, 1), (10, 3, 1))  # under another category
ABSENT = (11, 2)  # this prompt was not put to this model


def label(prompt, model):
    """Of a pair's first row."""
    return (prompt + model) % 2


def rows(split):
    """The rows of a split, model by model; those of `AGAIN` last."""
    pairs = [
        (prompt, model) for model in range(MODELS) for prompt in SPLITS[split] if (prompt, model) != ABSENT
    ]
    found = [
        (
            prompt,
            PROMPTS[prompt],
            model,
            ORDER[model],
            "mmlu" if prompt % 2 else "asdiv",
            label(prompt, model),
        )
        for prompt, model in pairs
    ]
    if split == "train":
        found += [
            (prompt, PROMPTS[prompt], model, ORDER[model], "gsm8k", value) for prompt, model, value in AGAIN
        ]
    return found


def as_csv(header, lines):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    return text.getvalue().encode()


def files():
    return {f"{split}.csv": as_csv(HEADER, rows(split)) for split in SPLITS} | {
        "model_order.csv": as_csv(("model_id", "model_name"), ORDER.items()),
        "question_order.csv": as_csv(("prompt_id", "prompt"), PROMPTS.items()),
    }
