"""Most of these tests train with Trainer more than once."""

import pytest

from tamis.testing.trainers import shorten_collections


@pytest.fixture(autouse=True, scope="session")
def _short_collections():
    shorten_collections()
