"""Times as people and batch systems write them."""

import pytest

from psdp.config.duration import seconds_in
from psdp.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("45s", 45),
        ("30m", 1800),
        ("1h30m", 5400),
        ("2d", 172800),
        ("90:00", 5400),
        ("01:30:00", 5400),
        ("1-12:00:00", 129600),
    ],
)
def test_a_time_is_read_in_every_usual_form(text: str, seconds: int) -> None:
    assert seconds_in(text, "--max-time") == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "1.5h", "30 m", "m", "1:2:3:4", "-5", "9" * 5000])
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--max-time expects a time such as 90 \(seconds\), 30m"):
        seconds_in(text, "--max-time")
