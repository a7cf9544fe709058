"""Addresses a callback must not reach, and what each is; from the IANA special-purpose registries and the clouds."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

# Where clouds hand credentials to whoever asks from inside. Azure's 168.63.129.16 even looks global.
METADATA_ADDRESSES = (
    "169.254.169.254",  # AWS, GCP, Azure, OpenStack, DigitalOcean, Hetzner
    "169.254.169.253",  # AWS DNS
    "169.254.170.2",  # AWS ECS
    "169.254.170.23",  # AWS EKS
    "169.254.0.23",  # Tencent
    "169.254.42.42",  # Scaleway
    "100.100.100.200",  # Alibaba
    "168.63.129.16",  # Azure
    "192.0.0.192",  # Oracle
    "fd00:ec2::254",  # AWS
    "fd00:ec2::253",  # AWS DNS
    "fd00:ec2::23",  # AWS EKS
    "fd20:ce::254",  # GCP
    "fd00:42::42",  # Scaleway
    "fd00:c1::a9fe:a9fe",  # Oracle
    "fe80::a9fe:a9fe",  # OpenStack
)

# The first that matches names the rule, so the narrow ones come first.
IPV4_RANGES = (
    ("0.0.0.0/32", "unspecified"),
    ("0.0.0.0/8", "this_network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "cgnat"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link_local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "not_global"),  # protocol assignments
    ("192.0.2.0/24", "documentation"),
    ("192.31.196.0/24", "not_global"),  # AS112
    ("192.52.193.0/24", "not_global"),  # AMT relays
    ("192.88.99.0/24", "6to4"),
    ("192.168.0.0/16", "private"),
    ("192.175.48.0/24", "not_global"),  # AS112
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
)
IPV6_RANGES = (
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::/96", "ipv4_compatible"),
    ("::ffff:0:0/96", "mapped"),
    ("::ffff:0:0:0/96", "mapped"),  # SIIT
    ("64:ff9b::/96", "nat64"),
    ("64:ff9b:1::/48", "nat64"),
    ("2001::/32", "teredo"),
    ("2001:10::/28", "orchid"),
    ("2001:20::/28", "orchid"),
    ("2001::/23", "not_global"),  # protocol assignments
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "6to4"),
    ("2620:4f:8000::/48", "not_global"),  # AS112
    ("3fff::/20", "documentation"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link_local"),
    ("fec0::/10", "site_local"),
    ("ff00::/8", "multicast"),
    # Everything else outside 2000::/3 is unassigned, or not for hosts.
    ("::/3", "not_global"),
    ("4000::/2", "not_global"),
    ("8000::/1", "not_global"),
)


def special_kind(address: IPv4Address | IPv6Address) -> str | None:
    """The rule that refuses `address`, or None for an ordinary global unicast address."""
    value = int(address)
    if address.version == 4:
        if value in _METADATA_V4:
            return "metadata"
        ranges = _SPANS_V4
    else:
        # A translator on the way would turn these into the IPv4 address they carry.
        if value in _METADATA_V6 or (value >> 32 in _TRANSLATED and value & 0xFFFF_FFFF in _METADATA_V4):
            return "metadata"
        ranges = _SPANS_V6
    return next((rule for first, last, rule in ranges if first <= value <= last), None)


def _spans(ranges: tuple[tuple[str, str], ...]) -> tuple[tuple[int, int, str], ...]:
    # Integers, because `address in network` is twenty times slower and this is on the path of every request.
    networks = [(ip_network(network), rule) for network, rule in ranges]
    return tuple((int(each.network_address), int(each.broadcast_address), rule) for each, rule in networks)


_SPANS_V4 = _spans(IPV4_RANGES)
_SPANS_V6 = _spans(IPV6_RANGES)
_METADATA_V4 = frozenset(int(each) for each in map(ip_address, METADATA_ADDRESSES) if each.version == 4)
_METADATA_V6 = frozenset(int(each) for each in map(ip_address, METADATA_ADDRESSES) if each.version == 6)
_TRANSLATED = frozenset(int(IPv6Address(prefix)) >> 32 for prefix in ("::ffff:0:0", "::ffff:0:0:0", "64:ff9b::", "::"))
