"""Templates of several families."""

import pytest

from tests.support.template_families import FAMILIES


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]
