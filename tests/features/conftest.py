"""What the latents of a dictionary are tried on."""

import pytest

from tests.latents_made import small_model, small_texts


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def texts():
    return small_texts()
