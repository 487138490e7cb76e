"""Flower's HTTP clients, going straight to where they are sent: no redirect is followed, no proxy is asked.

Flower's own follow redirects, to plain HTTP too and to any address, so that a server could have a device call whatever its network
reaches; and they use the proxies of the environment, also on loopback. Ours don't, and neither does a SuperNode that is started by

    python -m earmark_client.federation.direct --superlink …

Private modules of flwr used here: `flwr.supercore.protobuf.client`, `flwr.supercore.runtime`, `flwr.supernode.fleet_http_client`, and for
the SuperNode `flwr.supernode.fleet_http_connection`, whose one client class is replaced by ours.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from earmark_shared.settings import go_offline

go_offline()

import httpx  # noqa: E402
from flwr.supercore.protobuf.client import ProtobufClient, ProtobufClientInterceptor  # noqa: E402
from flwr.supercore.runtime import RuntimeHttpClient  # noqa: E402
from flwr.supernode import fleet_http_connection  # noqa: E402
from flwr.supernode.fleet_http_client import FleetHttpClient  # noqa: E402

if TYPE_CHECKING:
    from flwr.supercore.retry import RetryInvoker

MODULE = "earmark_client.federation.direct"


class Direct(ProtobufClient):
    """What makes a client of Flower's go straight."""

    def __init__(
        self,
        base_url: str,
        *,
        interceptors: Sequence[ProtobufClientInterceptor] = (),
        verify: ssl.SSLContext | bool | str = True,
        timeout: float = 30.0,
        retry_invoker: RetryInvoker | None = None,
    ) -> None:
        """Open a client as Flower does, with an HTTP client of our own below it."""
        super().__init__(base_url, interceptors=interceptors, verify=verify, timeout=timeout, retry_invoker=retry_invoker)
        self._client.close()
        self._client = httpx.Client(verify=verify, timeout=timeout, follow_redirects=False, trust_env=False)


class RuntimeClient(Direct, RuntimeHttpClient):
    """Flower's client of a SuperNode's Runtime API."""


class FleetClient(Direct, FleetHttpClient):
    """Flower's client of a SuperLink's Fleet API."""


def supernode_command() -> list[str]:
    """Return how a SuperNode is started whose requests go straight; its options follow."""
    return [sys.executable, "-P", "-m", MODULE]


def main() -> None:
    """Be Flower's stock SuperNode, but for its HTTP client."""
    from flwr.supernode.cli import flower_supernode

    fleet_http_connection.FleetHttpClient = FleetClient  # type: ignore[attr-defined]
    flower_supernode()


if __name__ == "__main__":
    main()
