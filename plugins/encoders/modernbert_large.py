"""ModernBERT-large: a 1024-dimensional masked language model, not tuned for sentences. Mean over the tokens, 512 tokens."""

from rph import EncoderSpec, hookimpl
from rph.encoding import sentence

CARD = sentence.modernbert("large", dim=1024, millions=395, said=340, alias="mbl")


@hookimpl
def register_encoder() -> EncoderSpec:
    return sentence.spec(CARD, architecture="modernbert")
