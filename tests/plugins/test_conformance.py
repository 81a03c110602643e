"""Every router of this distribution passes the conformance suite that third parties' routers are held to."""

from rph.registry import installed
from rph.testing import parametrize_with_router_checks


@parametrize_with_router_checks(installed().names("router"))
def test_the_router_conforms(spec, check):
    check(spec)
