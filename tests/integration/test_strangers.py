"""On real Flower: a bundle that isn't ours runs nowhere but at a stock node, and a node that nobody registered is not let in."""

import hashlib
import io
import zipfile
from contextlib import contextmanager

import pytest
from flwr.common.constant import ErrorCode
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import StartRunRequest
from flwr.supercore.fab import Fab

from earmark_client.federation.identity import DeviceKeys, load_membership
from earmark_client.store.home import open_home
from earmark_server.node import open_control
from earmark_shared.children import program
from earmark_shared.crypto.identities import Identity
from earmark_shared.crypto.nodes import NodeKey
from tests.support.live import HOST, NODE_S, Live, eventually, free_ports, kill_tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
CONFIG = b"""[project]
name = "stranger"
version = "1.0.0"
description = "An app that no device has installed"
license = "Apache-2.0"
dependencies = ["flwr==1.41.0"]

[tool.flwr.app]
publisher = "stranger"

[tool.flwr.app.components]
serverapp = "stranger.server:app"
clientapp = "stranger.client:app"

[tool.flwr.app.config]
folder = ""
nodes = 1
"""
SERVER = b"""
import time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    until_s = time.monotonic() + 120
    while len(list(grid.get_node_ids())) < int(context.run_config["nodes"]) and time.monotonic() < until_s:
        time.sleep(1)
    content = RecordDict({"sa1": ConfigRecord({"sa1": b"from a stranger"})})
    asked = [Message(content, node, "train.sa1_advertise", ttl=300.0) for node in grid.get_node_ids()]
    for reply in grid.send_and_receive(asked, timeout=240):
        code = reply.error.code if reply.has_error() else 0
        (Path(str(context.run_config["folder"])) / f"reply-{reply.metadata.src_node_id}").write_text(str(code))
"""
CLIENT = b"""
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train("sa1_advertise")
def train(message, context):
    (Path(str(context.run_config["folder"])) / f"ran-{context.node_id}").write_text("ran")
    return Message(RecordDict(), reply_to=message)
"""


def foreign_bundle():
    files = {"pyproject.toml": CONFIG, "stranger/__init__.py": b"", "stranger/server.py": SERVER, "stranger/client.py": CLIENT}
    listing = "\n".join(f"{name},{hashlib.sha256(data).hexdigest()},{8 * len(data)}" for name, data in files.items())
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, data in (*files.items(), (".info/CONTENT", listing.encode())):
            archive.writestr(name, data)
    return whole.getvalue()


def start_foreign_run(live, folder, nodes):
    """Start the stranger's app, as whoever reaches the SuperLink's Control interface could."""
    content = foreign_bundle()
    fab = fab_to_proto(Fab(hashlib.sha256(content).hexdigest(), content, {}))
    config = user_config_to_proto({"folder": str(folder), "nodes": nodes})
    with open_control(live.authority, live.port + 2) as control:
        assert control._client.StartRun(StartRunRequest(fab=fab, override_config=config)).HasField("run_id")


@contextmanager
def stock_node(live, keys, name):
    """Run Flower's own SuperNode, which executes what it is sent."""
    key, ca = live.folder / f"{name}.key", live.authority.places.tls / "ca.pem"
    key.write_bytes(keys.node.private_openssh())
    process = live.start(
        program("flower-supernode"),
        "--root-certificates", str(ca), "--superlink", f"{HOST}:{live.port + 2}", "--auth-supernode-private-key", str(key),
        "--host", HOST, "--port", str(free_ports()), "--isolation", "subprocess", log=f"{name}.log",
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_tree(process)


def keys_of(device):
    home = open_home(device.home, device.secret)
    try:
        return load_membership(home.database).keys
    finally:
        home.close()


def test_a_foreign_bundle_runs_nothing_on_a_device_and_a_stranger_is_not_let_in(tmp_path):
    said = tmp_path / "said"
    said.mkdir()
    with Live(tmp_path / "live", 2, taking_part=1) as live:
        ours, other = live.devices
        with stock_node(live, DeviceKeys(Identity.create(bytes), NodeKey.create()), "stranger") as stranger:
            assert eventually(lambda: stranger.poll() is not None, NODE_S, "the refusal")
        assert "SuperNode ID" not in (live.folder / "stranger.log").read_text()
        with stock_node(live, keys_of(other), "stock"):  # the control: enrolled, it is let in, and runs what it is sent
            eventually(lambda: "SuperNode ID" in (live.folder / "stock.log").read_text(), NODE_S, "the stock node's connection")
            start_foreign_run(live, said, 2)
            eventually(lambda: len(list(said.glob("reply-*"))) == 2, NODE_S, "both replies")
        assert {path.name for path in said.glob("ran-*")} == {f"ran-{other.node_id}"}
        assert (said / f"reply-{ours.node_id}").read_text() == str(ErrorCode.INVALID_FAB)
        assert (said / f"reply-{other.node_id}").read_text() == "0"
        assert ours.process.poll() is None
        ours.look()
        assert not ours.charged()
