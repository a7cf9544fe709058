"""Which addresses callbacks may reach: the public Internet, and the networks an operator allows by name."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from chargeapp.security.callback_url import CallbackTarget, CallbackUrlRefused, parse_callback_url
from chargeapp.security.special_addresses import special_kind

__all__ = ["AddressPolicy", "CallbackTarget", "CallbackUrlRefused"]


@dataclass(frozen=True)
class AddressPolicy:
    """Refuses every address that is not global unicast; `allowed_networks` re-allow what a closed network needs.

    A metadata address passes only if it is itself in the list, as a /32 or /128: nobody allows 169.254.0.0/16
    and means the credentials of the machine.
    """

    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def parse(self, url: str) -> CallbackTarget:
        """Read a callback URL and check it as far as that goes without resolving; raises CallbackUrlRefused."""
        target = parse_callback_url(url)
        if target.address is not None:
            self._check(target.address)
        return target

    def check_address(self, address: str) -> None:
        """Refuse an address that a host name resolved to; raises CallbackUrlRefused."""
        try:
            parsed = ip_address(address)
        except ValueError:
            raise CallbackUrlRefused("syntax") from None
        self._check(parsed)

    def _check(self, address: IPv4Address | IPv6Address) -> None:
        rule = special_kind(address)
        if rule is None:
            return
        allowing = [network for network in self.allowed_networks if address in network]
        if rule == "metadata":
            allowing = [network for network in allowing if network.num_addresses == 1]
        if not allowing:
            raise CallbackUrlRefused(rule)
