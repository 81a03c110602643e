"""all-mpnet-base-v2: a 768-dimensional sentence encoder. Mean over the tokens, rows of L2 norm 1, 384 tokens."""

from rph import EncoderCard, EncoderSpec, hookimpl
from rph.encoding import sentence

HF_ID = "sentence-transformers/all-mpnet-base-v2"
REVISION = "9a3225965996d404b775526de6dbfe85d3368642"

CARD = EncoderCard(
    name="mpnet",
    title="all-mpnet-base-v2, a sentence encoder of 109 million parameters",
    hf_id=HF_ID,
    revision=REVISION,
    dim=768,
    pooling="mean",
    normalise=True,
    prefix="",
    max_tokens=384,
    dtype="float32",
    licence="apache-2.0",
    citation="Reimers and Gurevych 2019, arXiv:1908.10084; Song et al. 2020, arXiv:2004.09297",
    files=sentence.files(HF_ID, REVISION, "apache-2.0"),
    aliases=("mpnet-base",),
    notes=(
        "text past 384 tokens is cut",
        "arXiv:2606.07587 says MPNet-base and cites the plain model; the sentence encoder made from it is taken here",
    ),
)


@hookimpl
def register_encoder() -> EncoderSpec:
    return sentence.spec(CARD, architecture="mpnet")
