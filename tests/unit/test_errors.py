"""What messages say of addresses and ports."""

import socket

import pytest

from pawprint.errors import port_problem, without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ann:a@b@host.org/x.git?a=b", "https://host.org/x.git?a=b"),
        ("http://host:4200/api", "http://host:4200/api"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("file:///x@y/z", "file:///x@y/z"),
        ("/a/b@c", "/a/b@c"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_port_that_is_taken_has_a_problem_and_a_free_one_none() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "in use" in port_problem("127.0.0.1", taken.getsockname()[1])
    assert port_problem("127.0.0.1", 0) == ""
