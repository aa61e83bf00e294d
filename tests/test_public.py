"""The public face: every name that is promised is there, and nothing is promised twice."""

import pytest

import bilens


@pytest.mark.parametrize("name", bilens.__all__)
def test_every_public_name_is_there(name):
    assert getattr(bilens, name) is not None
    assert name in dir(bilens)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Bilens'"):
        bilens.Bilens  # noqa: B018
