"""No spelling of a private address is accepted, and no ordinary callback URL is refused."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.odd_addresses import ADDRESSES, ODD_HOSTS

from chargeapp.security.address_policy import AddressPolicy, CallbackUrlRefused

PUBLIC_ONLY = AddressPolicy()

ODD_URLS = [
    ("", "syntax"),
    ("/path", "syntax"),
    ("//example.com/", "syntax"),
    ("example.com", "syntax"),
    ("example.com:8080/path", "syntax"),
    ("http:example.com", "syntax"),
    ("http:/example.com", "syntax"),
    ("http//example.com", "syntax"),
    ("http:///example.com", "empty_host"),
    ("http://?x", "empty_host"),
    ("http://#x", "empty_host"),
    ("ftp://example.com/", "scheme"),
    ("file:///etc/passwd", "scheme"),
    ("gopher://example.com/", "scheme"),
    ("javascript:alert(1)", "scheme"),
    ("data:text/plain,x", "scheme"),
    ("unix:/var/run/docker.sock", "scheme"),
    ("https+unix://x/", "scheme"),
    ("http://example.com\\@127.0.0.1/", "backslash"),
    ("http:\\\\example.com", "backslash"),
    ("http://127.0.0.1\\.example.com/", "backslash"),
    ("http://example.com/a\\b", "backslash"),
    (" http://example.com/", "control"),
    ("http://example.com/ ", "control"),
    ("http://example.com/a b", "control"),
    ("http://exam ple.com/", "control"),
    ("http://example.com/\r\nHost: x", "control"),
    ("http://example.com/\n", "control"),
    ("http://example.com/\t", "control"),
    ("http://example.com\x00.internal/", "control"),
    ("http://127.0.0.1\x00.example.com/", "control"),
    ("http://example.com/\x7f", "control"),
    ("http://example.com/\x85", "control"),
    ("http://example.com/\xa0", "control"),
    ("http://local\u200bhost/", "control"),
    ("http://example.com/\u2028", "control"),
    ("http://example.com/\u202e", "control"),
    ("http://example.com/\u3000", "control"),
    ("http://example.com/\ufeff", "control"),
    ("http://example.com/\ud800", "control"),
    ("https://example.com/" + "a" * 2029, "length"),
]

ACCEPTED = [
    ("http://example.com", ("http", "example.com", 80, "/", "example.com")),
    ("https://example.com", ("https", "example.com", 443, "/", "example.com")),
    ("HTTPS://EXAMPLE.COM/Path", ("https", "example.com", 443, "/Path", "example.com")),
    ("https://example.com:8443/a?b=c", ("https", "example.com", 8443, "/a?b=c", "example.com:8443")),
    ("http://example.com:80/", ("http", "example.com", 80, "/", "example.com")),
    ("http://example.com:443/", ("http", "example.com", 443, "/", "example.com:443")),
    ("https://example.com:65535/", ("https", "example.com", 65535, "/", "example.com:65535")),
    ("https://example.com?x=1", ("https", "example.com", 443, "/?x=1", "example.com")),
    ("https://example.com/a#fragment", ("https", "example.com", 443, "/a", "example.com")),
    ("https://example.com#fragment", ("https", "example.com", 443, "/", "example.com")),
    ("https://example.com/a@b:c?d=http://10.0.0.1/", ("https", "example.com", 443, "/a@b:c?d=http://10.0.0.1/", None)),
    ("https://example.com/a%20b", ("https", "example.com", 443, "/a%20b", None)),
    ("https://example.com/für?ü=%C3%BC", ("https", "example.com", 443, "/f%C3%BCr?%C3%BC=%C3%BC", None)),
    ("https://münchen.example/", ("https", "xn--mnchen-3ya.example", 443, "/", "xn--mnchen-3ya.example")),
    ("https://ｅｘａｍｐｌｅ.com/", ("https", "example.com", 443, "/", None)),  # noqa: RUF001
    ("https://xn--mnchen-3ya.example/", ("https", "xn--mnchen-3ya.example", 443, "/", None)),
    ("http://localhost:9000/", ("http", "localhost", 9000, "/", "localhost:9000")),
    ("http://demo_receiver:8000/", ("http", "demo_receiver", 8000, "/", "demo_receiver:8000")),
    ("http://metadata.google.internal/", ("http", "metadata.google.internal", 80, "/", None)),
    ("http://1.example.com/", ("http", "1.example.com", 80, "/", None)),
    ("http://0x7f.1.example/", ("http", "0x7f.1.example", 80, "/", None)),
    ("http://127.0.0.1.nip.io/", ("http", "127.0.0.1.nip.io", 80, "/", None)),
    ("http://8.8.8.8/", ("http", "8.8.8.8", 80, "/", "8.8.8.8")),
    ("http://9.255.255.255/", ("http", "9.255.255.255", 80, "/", None)),
    ("http://11.0.0.0/", ("http", "11.0.0.0", 80, "/", None)),
    ("http://100.63.255.255/", ("http", "100.63.255.255", 80, "/", None)),
    ("http://172.32.0.0:81/", ("http", "172.32.0.0", 81, "/", "172.32.0.0:81")),
    ("https://[2606:4700:4700::1111]/", ("https", "2606:4700:4700::1111", 443, "/", "[2606:4700:4700::1111]")),
    ("https://[2606:4700:4700:0:0:0:0:1111]:8443/", ("https", "2606:4700:4700::1111", 8443, "/", None)),
    ("https://[2001:200::1]/", ("https", "2001:200::1", 443, "/", None)),
    ("https://[2A00:1450::1]/", ("https", "2a00:1450::1", 443, "/", "[2a00:1450::1]")),
    ("https://example.com/" + "a" * 2028, ("https", "example.com", 443, "/" + "a" * 2028, None)),
]

ALLOWED_BY = [
    ("127.0.0.0/8", "127.0.0.1"),
    ("127.0.0.1/32", "127.0.0.1"),
    ("10.0.0.0/8", "10.20.30.40"),
    ("0.0.0.0/0", "192.168.1.1"),
    ("::1/128", "::1"),
    ("fd00::/8", "fd00::1234"),
    ("::ffff:7f00:0/104", "::ffff:127.0.0.1"),
    ("fe80::/10", "fe80::1%eth0"),
    ("169.254.0.0/16", "169.254.1.1"),
    ("169.254.169.254/32", "169.254.169.254"),
    ("fd00:ec2::254/128", "fd00:ec2::254"),
]
NOT_ALLOWED_BY = [
    ("127.0.0.0/8", "10.0.0.1", "private"),
    ("127.0.0.0/8", "::ffff:127.0.0.1", "mapped"),
    ("127.0.0.0/8", "::1", "loopback"),
    ("10.0.0.0/8", "11.0.0.1", None),
    ("169.254.0.0/16", "169.254.169.254", "metadata"),
    ("0.0.0.0/0", "169.254.169.254", "metadata"),
    ("0.0.0.0/0", "100.100.100.200", "metadata"),
    ("168.63.129.16/31", "168.63.129.16", "metadata"),
    ("169.254.169.254/32", "::ffff:169.254.169.254", "metadata"),
    ("::/0", "::ffff:169.254.169.254", "metadata"),
    ("::/0", "64:ff9b::a9fe:a9fe", "metadata"),
    ("::/0", "10.0.0.1", "private"),
    ("fd00::/8", "fd00:ec2::254", "metadata"),
]


def rule_of(call, text):
    """The rule that refused `text`, or None."""
    try:
        call(text)
    except CallbackUrlRefused as refused:
        return refused.rule
    return None


def in_url(address):
    return f"http://[{address}]/" if ":" in address else f"http://{address}/"


@pytest.mark.parametrize(("address", "rule"), ADDRESSES, ids=[each[0] for each in ADDRESSES])
def test_address_that_is_not_public_is_refused_wherever_it_comes_from(address, rule):
    assert rule_of(PUBLIC_ONLY.check_address, address) == rule
    if "%" not in address:
        assert rule_of(PUBLIC_ONLY.parse, in_url(address)) == rule


@pytest.mark.parametrize(("host", "rule"), ODD_HOSTS, ids=[ascii(each[0])[:40] for each in ODD_HOSTS])
@pytest.mark.parametrize("form", ["http://{}/", "https://{}?x=1", "HTTP://{}#f"])
def test_odd_host_is_refused(form, host, rule):
    assert rule_of(PUBLIC_ONLY.parse, form.format(host)) == rule


@pytest.mark.parametrize(("url", "rule"), ODD_URLS, ids=[ascii(each[0])[:40] for each in ODD_URLS])
def test_odd_url_is_refused(url, rule):
    assert rule_of(PUBLIC_ONLY.parse, url) == rule


@pytest.mark.parametrize(("url", "expected"), ACCEPTED, ids=[ascii(each[0])[:40] for each in ACCEPTED])
def test_ordinary_url_is_accepted(url, expected):
    target = PUBLIC_ONLY.parse(url)

    assert (target.scheme, target.host, target.port, target.path_and_query) == expected[:4]
    assert expected[4] in (None, target.host_header)


@pytest.mark.parametrize(("network", "address"), ALLOWED_BY, ids=[each[1] for each in ALLOWED_BY])
def test_allowed_network_is_reachable(network, address):
    policy = AddressPolicy((ip_network(network),))

    assert rule_of(policy.check_address, address) is None
    if "%" not in address:
        assert rule_of(policy.parse, in_url(address)) is None


@pytest.mark.parametrize(
    ("network", "address", "rule"), NOT_ALLOWED_BY, ids=[f"{each[1]} by {each[0]}" for each in NOT_ALLOWED_BY]
)
def test_allowed_network_allows_nothing_else(network, address, rule):
    assert rule_of(AddressPolicy((ip_network(network),)).check_address, address) == rule


@pytest.mark.parametrize("text", ["", "example.com", "127.1", "1.2.3.4.5", "::g"])
def test_what_is_no_address_is_refused_as_one(text):
    assert rule_of(PUBLIC_ONLY.check_address, text) == "syntax"


def test_allowed_network_does_not_excuse_an_odd_spelling():
    policy = AddressPolicy((ip_network("127.0.0.0/8"),))

    assert rule_of(policy.parse, "http://127.1/") == "odd_address"


def test_message_names_the_field_and_the_reason_but_not_the_url():
    with pytest.raises(CallbackUrlRefused) as caught:
        PUBLIC_ONLY.parse("http://10.0.0.1/?token=hidden")

    assert caught.value.errors == {"callback_url": [str(caught.value)]}
    assert "private" in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert "10.0.0.1" not in str(caught.value)


@given(st.ip_addresses(v=4))
@example(IPv4Address("168.63.129.16"))
@example(IPv4Address("192.88.99.1"))
def test_no_ipv4_address_outside_the_global_ranges_passes(address):
    if not address.is_global or address.is_multicast:
        assert rule_of(PUBLIC_ONLY.check_address, str(address)) is not None


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_outside_the_global_ranges_passes(address):
    if address not in ip_network("2000::/3") or not address.is_global:
        assert rule_of(PUBLIC_ONLY.check_address, str(address)) is not None


@given(st.ip_addresses(v=4), st.sampled_from(["::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::"]))
def test_no_ipv4_address_passes_inside_an_ipv6_address(address, prefix):
    wrapped = IPv6Address(int(IPv6Address(prefix)) + int(address))

    assert rule_of(PUBLIC_ONLY.check_address, str(wrapped)) is not None


@given(st.text(alphabet="0123456789abcdefx.ABCX", min_size=1, max_size=20))
def test_what_inet_aton_takes_for_an_address_is_checked_as_that_address(host):
    try:
        meant = socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return
    rule = rule_of(PUBLIC_ONLY.parse, f"http://{host}/")
    if host == meant:
        assert rule == rule_of(PUBLIC_ONLY.check_address, meant)
    else:
        assert rule in {"odd_address", "syntax"}


@given(st.text(max_size=60))
def test_any_text_is_either_refused_or_read_as_a_plain_host(text):
    try:
        target = PUBLIC_ONLY.parse(f"http://{text}")
    except CallbackUrlRefused:
        return
    assert target.host.isascii()
    assert target.host == target.host.lower()
    assert target.path_and_query.startswith("/")
    assert target.path_and_query.isascii()
    assert not set(target.host) & set(" /\\@?#%")
    if target.address is not None:
        assert ip_address(target.host) == target.address
