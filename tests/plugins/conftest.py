"""What the tests of routers share: heads that train briefly."""

import pytest
from rph_plugins.routers import equi

from rph.training.heads import Training

FLOOR = {"steps": 0, "rest": 0, "apart": 1}  # in place of the 2,000, 500 and 20 steps of the defaults


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Heads train for their epochs, however few steps they are: what is tested are methods, not how far they get.

    The conformance suite too, which fits some forty times; `rph check` trains as users do.
    """
    for name, value in FLOOR.items():
        monkeypatch.setitem(Training.__init__.__kwdefaults__, name, value)
    monkeypatch.setattr(equi, "STEPS", 0)


@pytest.fixture
def enough_steps(short, monkeypatch):
    """Tests that learn in earnest: the steps of the defaults."""
    for name in FLOOR:
        monkeypatch.setitem(
            Training.__init__.__kwdefaults__, name, Training.__dataclass_fields__[name].default
        )
