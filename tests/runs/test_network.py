"""Which interface several machines talk over, and when that cannot work."""

from __future__ import annotations

import socket

import pytest

from contrastive.errors import UsageError
from contrastive.runs import network


@pytest.fixture
def two_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.delenv(network.VARIABLE, raising=False)


def resolve_to(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    """Let the name of this machine resolve to an address."""

    def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        if address is None:
            raise socket.gaierror("Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")


@pytest.mark.parametrize("address", ["127.0.1.1", None])
def test_a_name_of_the_loopback_address_is_refused_with_the_remedy(
    address: str | None, two_machines: None, monkeypatch: pytest.MonkeyPatch
):
    resolve_to(monkeypatch, address)
    monkeypatch.setattr(network, "_interface_to", lambda _: "ens5")
    with pytest.raises(UsageError, match=r"node7, resolves to 127.*export GLOO_SOCKET_IFNAME=ens5"):
        network.refuse_loopback(4)
    monkeypatch.setenv(network.VARIABLE, "ens5")  # the remedy
    network.refuse_loopback(4)


def test_the_loopback_address_is_right_on_one_machine(two_machines: None, monkeypatch: pytest.MonkeyPatch):
    resolve_to(monkeypatch, "127.0.1.1")
    network.refuse_loopback(2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    network.refuse_loopback(2)


def test_another_address_is_right(two_machines: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(network, "_address_of_gloo", lambda: "10.0.0.7")
    network.refuse_loopback(4)


def test_the_interface_towards_a_host_is_not_the_loopback_one():
    assert network._interface_to("127.0.0.1") is None
    assert network._interface_to("no host of this name.invalid") is None
