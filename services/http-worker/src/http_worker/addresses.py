"""Which addresses are on the public Internet: those alone may be called.

By the IANA registries of special-purpose addresses, as `ipaddress` has them, and what these leave open: addresses that
carry another one are judged by that, and a few that clouds answer on are named.
"""

from __future__ import annotations

import ipaddress

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# RFC 6052: an IPv4 address in its last 32 bits.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# RFC 3056: an IPv4 address in bits 16 to 48.
_6TO4 = ipaddress.IPv6Network("2002::/16")
# RFC 4291, section 2.4: all that is assigned as global unicast.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_REFUSED = (
    # Azure's platform: metadata and DNS, on an address that looks public.
    ipaddress.IPv4Network("168.63.129.16/32"),
    # RFC 7526: relays of 6to4, withdrawn.
    ipaddress.IPv4Network("192.88.99.0/24"),
)


def is_public(address: Address) -> bool:
    """Return whether an address is one of the Internet's, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv4Address):
        special = address.is_multicast or address.is_reserved or any(address in network for network in _REFUSED)
        return address.is_global and not special
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _6TO4:
        return is_public(ipaddress.IPv4Address((int(address) >> 80) & 0xFFFF_FFFF))
    return address.is_global and address in _GLOBAL_UNICAST
