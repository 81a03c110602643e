"""Qwen2.5-0.5B: a decoder-only language model as an encoder. The last token's vector of 896 dimensions, 512 tokens.

A decoder's token sees only what stands before it, so that the last one alone has seen the whole query.
"""

from rph import EncoderCard, EncoderSpec, hookimpl
from rph.encoding import sentence

HF_ID = "Qwen/Qwen2.5-0.5B"
REVISION = "main"  # no commit is known to us: that of the first pull is recorded and used ever after

CARD = EncoderCard(
    name="qwen2.5-0.5b",
    title="Qwen2.5-0.5B, a decoder-only language model of 494 million parameters",
    hf_id=HF_ID,
    revision=REVISION,
    dim=896,
    pooling="last",
    normalise=False,
    prefix="",
    max_tokens=512,
    dtype="float32",
    licence="apache-2.0",
    citation="Qwen Team 2024, arXiv:2412.15115",
    files=sentence.files(HF_ID, REVISION, "apache-2.0"),
    aliases=("qwen",),
    notes=(
        "text past 512 tokens is cut; the model itself takes 32768",
        "neither its authors nor arXiv:2606.07587 give a pooling: the last token, rows not normalised",
        "an empty query is encoded as the token that ends a text",
    ),
)


@hookimpl
def register_encoder() -> EncoderSpec:
    return sentence.spec(CARD, architecture="qwen2")
