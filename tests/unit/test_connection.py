"""How long the database is waited for: what the user says goes before what we think."""

import pytest

from fwcore.errors import DatabaseUnreachable
from fwcore.launchpad.connection import connect

URI = "mongodb://user:p%3Fw@db1.example.org:27017,db2.example.org/"


def bounds(uri, **options):
    database, _where = connect(uri, "fireworks", 5.0, options)
    with database.client as client:
        chosen = client.options
        return (
            chosen.server_selection_timeout,
            chosen.pool_options.connect_timeout,
            chosen.pool_options.socket_timeout,
            chosen.heartbeat_frequency,
        )


def test_the_server_is_asked_often_enough_to_be_given_up_in_three_times_the_timeout():
    assert bounds(URI) == (5, 5, 60, 5)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "serverSelectionTimeoutMS=400&connectTimeoutMS=300&socketTimeoutMS=2000",
            (0.4, 0.3, 2, 5),
        ),
        ("sockettimeoutms=2000", (5, 5, 2, 5)),
        ("heartbeatFrequencyMS=700&tls=false", (5, 5, 60, 0.7)),
    ],
)
def test_what_the_uri_says_is_done(said, expected):
    assert bounds(f"{URI}?{said}") == expected


def test_what_a_launchpad_file_says_goes_before_its_uri():
    assert bounds(f"{URI}?socketTimeoutMS=2000", socketTimeoutMS=3000)[2] == 3


def test_times_have_a_zone_whatever_the_uri_says():
    database, _where = connect(f"{URI}?tz_aware=false", "fireworks", 5.0, {})
    with database.client as client:
        assert client.codec_options.tz_aware


def test_servers_that_dns_does_not_find_may_be_found_later(monkeypatch):
    """It is no mistake in the configuration, after which systemd would not start the agent again."""
    import dns.exception
    import dns.resolver

    def resolve(*_args, **_options):
        raise dns.exception.Timeout

    monkeypatch.setattr(dns.resolver, "resolve", resolve)
    with pytest.raises(DatabaseUnreachable) as told:
        connect("mongodb+srv://me:secret@db.example.org/", "fireworks", 5.0, {})
    assert "secret" not in told.value.title
