"""ModernBERT-large: a 1024-dimensional masked language model, not tuned for sentences. Mean over the tokens, 512 tokens."""

from rph import EncoderCard, EncoderSpec, hookimpl
from rph.encoding import sentence

HF_ID = "answerdotai/ModernBERT-large"
REVISION = "main"  # no commit is known to us: that of the first pull is recorded and used ever after

CARD = EncoderCard(
    name="modernbert-large",
    title="ModernBERT-large, a bidirectional encoder of 395 million parameters",
    hf_id=HF_ID,
    revision=REVISION,
    dim=1024,
    pooling="mean",
    normalise=False,
    prefix="",
    max_tokens=512,
    dtype="float32",
    licence="apache-2.0",
    citation="Warner et al. 2024, arXiv:2412.13663",
    files=sentence.files(HF_ID, REVISION, "apache-2.0"),
    aliases=("mbl",),
    notes=(
        "text past 512 tokens is cut; the model itself takes 8192",
        "its authors give no pooling: mean over the tokens, rows not normalised",
        "arXiv:2606.07587 says about 340 million parameters; it has 395 million",
    ),
)


@hookimpl
def register_encoder() -> EncoderSpec:
    return sentence.spec(CARD, architecture="modernbert")
