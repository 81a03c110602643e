"""bge-base-en-v1.5: a 768-dimensional retrieval encoder. The first token's vector, rows of L2 norm 1, 512 tokens."""

from rph import EncoderCard, EncoderSpec, hookimpl
from rph.encoding import sentence

HF_ID = "BAAI/bge-base-en-v1.5"
REVISION = "a5beb1e3e68b9ab74eb54cfd186867f64f240e1a"

CARD = EncoderCard(
    name="bge",
    title="bge-base-en-v1.5, a retrieval encoder of 109 million parameters",
    hf_id=HF_ID,
    revision=REVISION,
    dim=768,
    pooling="cls",
    normalise=True,
    prefix="",
    max_tokens=512,
    dtype="float32",
    licence="mit",
    citation="Xiao et al. 2023, C-Pack, arXiv:2309.07597",
    files=sentence.files(HF_ID, REVISION, "mit"),
    aliases=("bge-base",),
    notes=(
        "text past 512 tokens is cut",
        "its instruction for retrieval queries is left out: queries are compared with queries here, not with passages",
    ),
)


@hookimpl
def register_encoder() -> EncoderSpec:
    return sentence.spec(CARD, architecture="bert")
