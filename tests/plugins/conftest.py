"""What the tests of routers share: heads that train briefly."""

import pytest


@pytest.fixture(autouse=True)
def short(briefly):
    """What is tested are methods, not how far they get.

    The conformance suite too, which fits some forty times; `rph check` trains as users do.
    """
