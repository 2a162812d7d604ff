"""What users type for amounts of memory."""

import pytest

from histocli.base.errors import InvalidOption
from histocli.config.options import parse_gigabytes


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("4GiB", 2**32),
        ("4GB", 4e9),
        ("4G", 4e9),
        ("4", 4e9),
        ("2.5", 2.5e9),
        ("800M", 8e8),
        ("512MiB", 2**29),
        ("1 TiB", 2**40),
        ("8kib", 2**13),
        ("0.5gb", 5e8),
    ],
)
def test_units_with_an_i_are_powers_of_two(text, n_bytes):
    assert parse_gigabytes(text, "--max-memory") * 1e9 == pytest.approx(n_bytes, rel=1e-12)


@pytest.mark.parametrize("text", ["", "G", "4 apples", "-4G", "4iB", "nan"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(InvalidOption, match="--max-memory"):
        parse_gigabytes(text, "--max-memory")
