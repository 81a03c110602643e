"""Every router of this distribution passes the conformance suite that third parties' routers are held to."""

import pytest

from rph.registry import installed
from rph.testing import parametrize_with_router_checks

# They start at random, not at the models' levels: briefly trained they know not even these.
IN_EARNEST = ("irt-router", "mirt", "model-spider", "routerdc")


@pytest.fixture(autouse=True)
def floor(request, short):
    """Briefly trained heads, as in the other tests, but for those that owe nothing until they are trained."""
    if request.node.callspec.params["spec"].name in IN_EARNEST:
        request.getfixturevalue("enough_steps")


@parametrize_with_router_checks(installed().names("router"))
def test_the_router_conforms(spec, check):
    check(spec)
