"""ModernBERT-base: a 768-dimensional masked language model, not tuned for sentences. Mean over the tokens, 512 tokens."""

from rph import EncoderSpec, hookimpl
from rph.encoding import sentence

CARD = sentence.modernbert("base", dim=768, millions=149, said=110, alias="mbb")


@hookimpl
def register_encoder() -> EncoderSpec:
    return sentence.spec(CARD, architecture="modernbert")
