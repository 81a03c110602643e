"""Fixtures every test shares: an RPH_HOME of its own, and the real data where it is present."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from rph.training import stacks

pytest.register_assert_rewrite("tests.routers")  # so that a check that fails there shows the numbers

# How long an example takes, or is drawn, is the machine's business: a test that is slow for once has not failed.
settings.register_profile("rph", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rph")

# Small tests gain nothing from a second thread and lose much where another process has the core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def rph_home(tmp_path, monkeypatch):
    """Each test has its own RPH_HOME, so that none sees another's cache or the user's."""
    home = tmp_path / "rph-home"
    monkeypatch.setenv("RPH_HOME", str(home))
    monkeypatch.delenv("RPH_PLUGINS", raising=False)
    return home


@pytest.fixture
def briefly():
    """Heads train for their epochs, however few steps they are."""
    with stacks.briefly():
        yield


@pytest.fixture
def enough_steps(briefly):
    """Tests that learn in earnest among those that do not."""
    with stacks.briefly(False):
        yield


@pytest.fixture(scope="session")
def real_data():
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real routing data is not at {REAL_DATA}")
    return REAL_DATA
