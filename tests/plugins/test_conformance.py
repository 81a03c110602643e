"""Every router of this distribution passes the conformance suite that third parties' routers are held to."""

import pytest

from rph.conformance.routers import CHECKS
from rph.registry import installed
from rph.testing import parametrize_with_router_checks

# Heads that start at random, not at the models' levels: briefly trained they know not even these.
FROM_NOTHING = {"irt-router", "mirt", "model-spider", "routerdc"}


@pytest.fixture(autouse=True)
def floor(request, short):
    """Briefly trained heads, as in the other tests, but where the check is about what was learnt and they began with nothing."""
    router = request.node.callspec.params["spec"].name
    check = request.node.callspec.id.removeprefix(f"{router}-")
    if (router, check) == ("equi", "every-field-matters"):
        pytest.skip("a minute for its wide networks; test_equi.py varies its fields on narrow ones")
    if router in FROM_NOTHING and CHECKS[check].learns:
        request.getfixturevalue("enough_steps")


@parametrize_with_router_checks(installed().names("router"))
def test_the_router_conforms(spec, check):
    check(spec)
