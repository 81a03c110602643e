"""Stored embeddings stay until an encoder's `code_version` is raised: no change of its code without a decision.

`python tests/encoding/test_code_versions.py` records the present code of every encoder. Where vectors change, raise `code_version` on
the card first; where they cannot (a rename, a message), the record alone says that somebody looked.
"""

import hashlib
import json
from pathlib import Path

import pytest

from rph.engine import canonical, keys
from rph.registry import OURS, installed

RECORD = Path(__file__).parent / "code_versions.json"
COMPUTING = ("rph_plugins.encoders.", "rph.encoding.sentence")  # of what encoders reach, what makes vectors


def code_of(plugin):
    """Hash of the canonical forms of the modules that make the encoder's vectors."""
    modules = keys.reach_of(plugin).modules
    files = sorted(Path(file) for name, file in modules.items() if name.startswith(COMPUTING))
    forms = [repr(canonical.read(file.read_text("utf-8")).parts) for file in files]
    return hashlib.sha256("\0".join(sorted(forms)).encode()).hexdigest()[:16]


def built_in():
    found = installed()
    plugins = (
        found.load(source.kind, source.name) for source in found.sources() if source.distribution == OURS
    )
    return {plugin.name: plugin for plugin in plugins if plugin.source.kind == "encoder"}


@pytest.mark.parametrize("name", built_in())
def test_an_encoders_code_is_the_one_recorded_for_its_version(name):
    plugin = built_in()[name]
    recorded = json.loads(RECORD.read_text())[name]
    found = {"code_version": plugin.spec.card.code_version, "code": code_of(plugin)}
    assert found == recorded, f"the code of {name} has changed: read the top of {Path(__file__).name}"


if __name__ == "__main__":
    record = {
        n: {"code_version": p.spec.card.code_version, "code": code_of(p)} for n, p in built_in().items()
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
