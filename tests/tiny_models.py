"""Models of the six encoders' architectures, two layers and random weights, in the hub's layout with real tokenizers.

They have the width of the published models, so that everything a card says is tested on them but what they know.
"""

from __future__ import annotations

from pathlib import Path

SPECIAL = {  # architecture -> (unknown, padding, first, last) tokens, as the published tokenizers have them
    "bert": ("[UNK]", "[PAD]", "[CLS]", "[SEP]"),
    "modernbert": ("[UNK]", "[PAD]", "[CLS]", "[SEP]"),
    "mpnet": ("[UNK]", "<pad>", "<s>", "</s>"),
}
WORDS = [
    "how",
    "many",
    "does",
    "it",
    "take",
    "to",
    "change",
    "a",
    "light",
    "bulb",
    "word",
    "other",
    "long",
    "and",
    "the",
    "of",
    "in",
    "question",
    "answer",
]


def make(folder: Path, architecture: str, dim: int) -> Path:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json into a new folder."""
    import torch
    from transformers import AutoConfig, AutoModel

    tokenizer = _tokenizer(architecture)
    sizes = {"hidden_size": dim, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    own = {
        "bert": {"max_position_embeddings": 512},
        "mpnet": {"max_position_embeddings": 514, "pad_token_id": 1},
        "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 16},
        "qwen2": {"num_key_value_heads": 1, "max_position_embeddings": 1024, "pad_token_id": None},
    }[architecture]
    special = {"bos_token_id": None, "eos_token_id": None, "cls_token_id": None, "sep_token_id": None}
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer),
        **(special if architecture == "modernbert" else {}),
        **sizes,
        **{"pad_token_id": tokenizer.pad_token_id, **own},
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # random weights are small: texts would hardly differ
        for name, value in model.named_parameters():
            if value.dim() > 1 and "norm" not in name.lower():
                value.mul_(5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(architecture: str):
    return _bytes() if architecture == "qwen2" else _words(architecture)


def _bytes():
    """Byte pairs, merged until every word is one token; nothing is put around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([text for word in WORDS for text in (word, f"so {word}")] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|endoftext|>", pad_token="<|endoftext|>", model_max_length=100_000
    )


def _words(architecture: str):
    """Words and single characters, with the architecture's own tokens around a text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    unknown, padding, first, last = SPECIAL[architecture]
    # mpnet keeps <s> at 0 and <pad> at 1: its positions are counted from the padding's number on.
    names = [first, padding, last, unknown] if architecture == "mpnet" else [padding, unknown, first, last]
    vocabulary = names + WORDS + [chr(c) for c in range(33, 127)]
    numbers = {token: i for i, token in enumerate(dict.fromkeys(vocabulary))}
    made = Tokenizer(models.WordLevel(numbers, unk_token=unknown))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, numbers[first]), (last, numbers[last])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token=unknown,
        pad_token=padding,
        cls_token=first,
        sep_token=last,
        model_max_length=100_000,
    )
