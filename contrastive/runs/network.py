"""The network interface over which processes on several machines talk to each other."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct

from contrastive.errors import UsageError

#: Names the interface that gloo, torch's communication between hosts, uses.
VARIABLE = "GLOO_SOCKET_IFNAME"
#: Variables in which torchrun, Accelerate and MPI pass the number of processes on this machine.
_LOCAL_SIZES = (
    "LOCAL_WORLD_SIZE",
    "MPI_LOCALNRANKS",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
)
_SIOCGIFADDR = 0x8915  # Linux: the address of an interface


def refuse_loopback(process_count: int) -> None:
    """Refuse to start if gloo would listen on the loopback address, which other machines cannot reach.

    Without a named interface it takes the address that this machine's name resolves to. Raises UsageError.
    """
    local_count = next((int(os.environ[name]) for name in _LOCAL_SIZES if name in os.environ), process_count)
    if local_count >= process_count or os.environ.get(VARIABLE):
        return
    address = _address_of_gloo()
    if not ipaddress.ip_address(address).is_loopback:
        return
    interface = _interface_to(os.environ.get("MASTER_ADDR", ""))
    example = f"export {VARIABLE}={interface}" if interface else f"export {VARIABLE}=eth0, or its name here"
    raise UsageError(
        f"the name of this machine, {socket.gethostname()}, resolves to {address}, which the other machines "
        f"cannot reach. Name the network interface before you start: {example}."
    )


def _address_of_gloo() -> str:
    """The first address of this machine's name that a socket can be bound to; else the loopback address."""
    try:
        infos = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        infos = []
    for family, kind, protocol, _, address in infos:
        try:
            with socket.socket(family, kind, protocol) as attempt:
                attempt.bind(address)
        except OSError:
            continue
        return str(address[0]).partition("%")[0]
    return "127.0.0.1"


def _interface_to(host: str) -> str | None:
    """The interface with the address that this machine uses towards ``host``; None if unknown."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # sends nothing
            own = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                try:
                    reply = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                except OSError:
                    continue  # an interface without an address
                if socket.inet_ntoa(reply[20:24]) == own and name != "lo":
                    return name
    except OSError:
        pass
    return None
