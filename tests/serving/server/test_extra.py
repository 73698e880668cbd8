"""Says in words that the server is not tested, where what it needs is not installed."""

import pytest

from tests.conftest import LACKING


def test_the_server_is_tested():
    if LACKING:
        pytest.skip(
            f"{', '.join(LACKING)} of requirements-serve.txt not installed: the tests of the "
            "server are left out (tests/conftest.py)"
        )
