"""The egress guard: no way of writing an address, and no trick of a name, leads a request to where it must not go."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest
from http_worker import client as http_client
from http_worker.client import Client
from http_worker.egress import BAD_PORTS, Guard
from http_worker.settings import HttpWorkerSettings

from offload_core.errors import PermanentError, StepError, TemporaryError

NAMES = {
    "private.example": ["10.1.2.3"],
    "mixed.example": ["93.184.215.14", "127.0.0.1"],
    "sixth.example": ["2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::1"],
    "metadata.google.internal": ["169.254.169.254"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "xn--bcher-kva.example": ["192.168.0.7"],
    "dotted.example.": ["127.0.0.1"],
    "kubernetes.default.svc": ["10.96.0.1"],
}
# {port} is that of a listener on 127.0.0.1 and ::1.
CASES = [
    # IPv4 as people write it, and as inet_aton(3) reads it.
    "http://127.0.0.1:{port}/", "http://127.1:{port}/", "http://127.0.1:{port}/", "http://2130706433:{port}/",
    "http://0x7f000001:{port}/", "http://0x7f.0.0.1:{port}/", "http://0177.0.0.1:{port}/", "http://017700000001:{port}/",
    "http://0x7f.1:{port}/", "http://127.0.0.01:{port}/", "http://127.255.255.254:{port}/", "http://0:{port}/",
    "http://0.0.0.0:{port}/", "http://00000:{port}/", "http://10.0.0.1:{port}/", "http://10.255.255.255:{port}/",
    "http://172.16.0.1:{port}/", "http://172.31.255.255:{port}/", "http://192.168.1.1:{port}/",
    "http://169.254.169.254/latest/meta-data/", "http://169.254.170.2/", "http://100.64.0.1/", "http://100.100.100.200/",
    "http://168.63.129.16/", "http://192.0.0.192/", "http://192.88.99.1/", "http://198.18.0.1/", "http://224.0.0.1/",
    "http://240.0.0.1/", "http://255.255.255.255/", "http://192.0.2.1/", "http://203.0.113.9/",
    # IPv6, plain and with an IPv4 address in it.
    "http://[::1]:{port}/", "http://[0:0:0:0:0:0:0:1]:{port}/", "http://[::]:{port}/", "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/", "http://[::127.0.0.1]:{port}/", "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[64:ff9b::a00:1]/", "http://[64:ff9b:1::1]/", "http://[2002:7f00:1::]/", "http://[2002:c0a8:101::1]/",
    "http://[fe80::1]/", "http://[fec0::1]/", "http://[fc00::1]/", "http://[fd00:ec2::254]/", "http://[ff02::1]/",
    "http://[2001:db8::1]/", "http://[100::1]/", "http://[2001::1]/", "http://[4000::1]/",
    # Names.
    "http://localhost:{port}/", "http://LOCALHOST:{port}/", "http://localhost.:{port}/", "http://private.example/",
    "http://mixed.example:{port}/", "http://sixth.example:{port}/", "http://metadata.google.internal/",
    "http://nat64.example:{port}/", "http://mapped.example:{port}/", "http://bücher.example/",
    "http://dotted.example.:{port}/", "https://kubernetes.default.svc/",
    # Digits and dots of other scripts, which IDNA makes plain ones of.
    "http://\uff11\uff12\uff17.0.0.1:{port}/", "http://127\u30020\u30020\u30021:{port}/",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460:{port}/",
    # What two parsers may read in two ways.
    "http://user@127.0.0.1:{port}/", "http://user:password@127.0.0.1:{port}/", "http://93.184.215.14@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@example.com/", "http://example.com\\@127.0.0.1:{port}/", "http://127.0.0.1:{port}?@example.com",
    "http:127.0.0.1:{port}/", "http:/127.0.0.1:{port}/", "http:///127.0.0.1:{port}/", "//127.0.0.1:{port}/",
    "http://[::1%25lo]:{port}/", "http://127.0.0.1%00.example.com:{port}/", "http://%31%32%37.0.0.1:{port}/",
    # Other protocols and other protocols' ports.
    "file:///etc/passwd", "gopher://127.0.0.1:{port}/_x", "ftp://127.0.0.1:{port}/", "unix:///var/run/docker.sock",
    "http://93.184.215.14:22/", "http://93.184.215.14:25/", "http://93.184.215.14:6667/", "http://93.184.215.14:0/",
    "http://127.0.0.1:99999/", "http://", "",
]  # fmt: skip


class Listener:
    """Counts the connections to 127.0.0.1 and ::1."""

    def __init__(self) -> None:
        self.count = 0
        self.sockets = [socket.create_server(("127.0.0.1", 0))]
        self.port = self.sockets[0].getsockname()[1]
        if socket.has_ipv6:
            self.sockets.append(socket.create_server(("::1", self.port), family=socket.AF_INET6))
        for one in self.sockets:
            threading.Thread(target=self._accept, args=(one,), daemon=True).start()

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            self.count += 1
            connection.close()

    def close(self) -> None:
        for one in self.sockets:
            one.close()


@pytest.fixture
def listener():
    found = Listener()
    yield found
    found.close()


@pytest.fixture
def resolver(monkeypatch):
    """The system's resolver, with names of our own in it."""
    genuine = socket.getaddrinfo

    def getaddrinfo(host, port, *arguments, **options):
        if host in NAMES:
            found = NAMES[host]
            chosen = found.pop(0) if host == "rebinding.example" and len(found) > 1 else None
            return [
                (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port))
                for one in ([chosen] if chosen else found)
            ]
        if isinstance(host, str) and host.endswith(".example"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return genuine(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def settings(**given: str) -> HttpWorkerSettings:
    return HttpWorkerSettings(redis_url="redis://localhost/0", link_secret="s" * 32, **given)


async def send(url: str, *, seconds: float = 5, **given: str):
    client = Client(settings(**given))
    try:
        return await client.send("GET", url, {}, b"", timeout_seconds=seconds, limit_bytes=1000)
    finally:
        await client.aclose()


def test_there_are_enough_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize("url", CASES)
def test_nothing_private_is_called(listener, resolver, url):
    with pytest.raises(StepError) as raised:
        asyncio.run(send(url.format(port=listener.port)))
    # Refused for good, but for what is no name at all today.
    assert isinstance(raised.value, PermanentError) or raised.value.code == "http.unresolved", raised.value
    assert raised.value.code in {"egress.refused", "http.url_invalid", "http.unresolved"}
    assert listener.count == 0


def test_a_name_that_changes_between_look_ups_is_looked_up_once(listener, resolver, monkeypatch):
    """The connection goes to an address that was checked, never to one that was resolved again."""
    monkeypatch.setitem(NAMES, "rebinding.example", ["192.0.2.7", "127.0.0.1"])
    connected: list[str] = []

    class Backend:
        async def connect_tcp(self, host, *_, **__):
            connected.append(host)
            raise http_client.httpcore2.ConnectError

    monkeypatch.setattr("http_worker.egress.is_public", lambda address: str(address) == "192.0.2.7")
    guard = Guard(settings())
    guard._backend = Backend()
    with pytest.raises(http_client.httpcore2.ConnectError):
        asyncio.run(guard.connect_tcp("rebinding.example", listener.port))
    assert connected == ["192.0.2.7"]
    assert listener.count == 0


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_the_internet_may_be_called(resolver, monkeypatch, address):
    monkeypatch.setitem(NAMES, "public.example", [address])
    assert list(map(str, asyncio.run(Guard(settings()).addresses("public.example", 443)))) == [address]


@pytest.mark.parametrize(
    ("allowed", "url", "is_allowed"),
    [
        ("127.0.0.0/8", "http://127.0.0.1:{port}/", True),
        ("127.0.0.0/8", "http://[::ffff:127.0.0.1]:{port}/", True),
        ("127.0.0.0/8", "http://[::1]:{port}/", False),
        ("::1", "http://[::1]:{port}/", True),
        ("localhost", "http://localhost:{port}/", True),
        ("*.inside.example", "http://CRM.inside.example.:{port}/", True),
        ("localhost", "http://127.0.0.1:{port}/", False),
        ("*.inside.example", "http://crm.inside.example:{port}/", True),
        ("*.inside.example", "http://notinside.example:{port}/", False),
        ("127.0.0.1", "http://127.0.0.1:22/", False),
    ],
)
def test_the_allow_list_opens_what_it_names_and_no_more(listener, resolver, monkeypatch, allowed, url, is_allowed):
    for name in ("crm.inside.example", "crm.inside.example.", "notinside.example"):
        monkeypatch.setitem(NAMES, name, ["127.0.0.1"])
    with pytest.raises(StepError) as raised:
        asyncio.run(send(url.format(port=listener.port), egress_allow=allowed))
    # The listener hangs up: an HTTP server would have answered.
    assert (listener.count == 1) is is_allowed
    assert raised.value.code == ("http.disconnected" if is_allowed else "egress.refused")


def test_every_bad_port_of_the_fetch_standard_is_refused():
    assert len(BAD_PORTS) == 83
    for port in BAD_PORTS:
        with pytest.raises(PermanentError, match="belongs to another protocol"):
            asyncio.run(Guard(settings(egress_allow="localhost")).addresses("localhost", port))


def test_with_a_proxy_what_can_be_seen_to_be_private_is_refused(listener, resolver, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{listener.port}")
    for url in ("http://private.example/", "http://127.0.0.1/", "http://localhost/"):
        with pytest.raises(PermanentError):
            asyncio.run(send(url))
    assert listener.count == 0
    # The proxy may know a name that is unknown here; ours hangs up.
    with pytest.raises(TemporaryError):
        asyncio.run(send("http://unknown.example/"))
    assert listener.count == 1
    # What NO_PROXY names is called, and guarded, from here.
    monkeypatch.setenv("no_proxy", "private.example")
    with pytest.raises(PermanentError):
        asyncio.run(send("http://private.example/"))
    assert listener.count == 1


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "a b/", "http://x", "*", "1.2.3", "-x"])
def test_what_is_no_name_and_no_network_is_refused(wrong):
    with pytest.raises(ValueError, match="egress_allow"):
        settings(egress_allow=wrong)
