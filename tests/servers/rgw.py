"""A real Ceph RADOS Gateway on loopback, for as long as one test run needs it.

One monitor, one OSD that keeps its objects in memory and one gateway: the smallest cluster that speaks S3 as it is
spoken in production. It starts in a few seconds, runs as any user and leaves nothing behind.

No manager daemon is started: it only gathers statistics, and nothing here reads them. The initial OSD map is handed
to the monitor when its store is made, so no slow `ceph` call is needed to add the OSD.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import uuid
from email.utils import formatdate
from typing import TypedDict

from .process import BUCKET, Daemons, Server, ask, find

PROGRAMS = {
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "monmaptool": "ceph-base",
    "osdmaptool": "ceph-base",
    "radosgw": "radosgw",
    "radosgw-admin": "ceph-common",
}
CONFIGURED = ("-c", "ceph.conf")

CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
ms mon client mode = crc
run dir = {folder}
keyring = {folder}/none
admin socket =
pid file =
log file =
mon cluster log file =
log to stderr = true
err to stderr = true
debug rocksdb = 0
osd objectstore = memstore
memstore device bytes = 8589934592
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon data avail crit = 0
# A proposal waits a second by default, and creating the gateway's pools takes a dozen of them.
paxos propose interval = 0.05
paxos min wait = 0.01
# A client that comes before the OSD is up asks for news only at its next tick, by default after five seconds.
objecter tick interval = 0.1
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{s3_port} tcp_nodelay=1
rgw thread pool size = 64
"""


class S3Server(TypedDict):
    """What a client needs to reach the gateway."""

    endpoint: str
    access_key_id: str
    secret_access_key: str
    region: str
    bucket: str


def missing() -> list[str]:
    """What is not installed."""
    return [f"{program} (apt: {package})" for program, package in PROGRAMS.items() if not find(program)]


def start(daemons: Daemons) -> S3Server:
    """Starts the cluster and makes the bucket, which proves that keys, index pool and data path work."""
    mon_port, s3_port = daemons.ports(2)
    info = S3Server(
        endpoint=f"http://127.0.0.1:{s3_port}",
        access_key_id=secrets.token_hex(10).upper(),
        secret_access_key=secrets.token_hex(20),
        region="us-east-1",
        bucket=BUCKET,
    )
    folder, fsid = daemons.folder, str(uuid.uuid4())
    (folder / "ceph.conf").write_text(CONFIGURATION.format(folder=folder, fsid=fsid, mon_port=mon_port, s3_port=s3_port))
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    run(daemons, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", "monmap")
    run(daemons, "osdmaptool", "--createsimple", "1", "osdmap")
    run(daemons, "ceph-mon", *CONFIGURED, "--mkfs", "-i", "a", "--monmap", "monmap", "--osdmap", "osdmap")
    spawn(daemons, "ceph-mon", "-i", "a")
    run(daemons, "ceph-osd", *CONFIGURED, "--mkfs", "-i", "0", "--osd-uuid", str(uuid.uuid4()))
    spawn(daemons, "ceph-osd", "-i", "0")
    run(
        *(daemons, "radosgw-admin", *CONFIGURED, "-n", "client.rgw"),
        *("user", "create", "--uid", "test", "--display-name", "test"),
        *("--access-key", info["access_key_id"], "--secret", info["secret_access_key"]),
    )
    spawn(daemons, "radosgw", "-n", "client.rgw")
    daemons.wait_for("make a bucket", lambda: put_bucket(s3_port, info))
    return info


def run(daemons: Daemons, program: str, *args: str) -> None:
    """Runs a program of Ceph's to its end."""
    daemons.run(program, [find(program) or program, *args])


def spawn(daemons: Daemons, program: str, *args: str) -> None:
    """Starts a daemon of Ceph's."""
    daemons.spawn(program, [find(program) or program, *CONFIGURED, "-f", *args])


def put_bucket(s3_port: int, info: S3Server) -> int:
    """Sends one signed `PUT /bucket`; returns the status. Signature version 2, because it is five lines."""
    date = formatdate(usegmt=True)
    words = f"PUT\n\n\n{date}\n/{info['bucket']}"
    digest = hmac.digest(info["secret_access_key"].encode(), words.encode(), hashlib.sha1)
    authorization = f"AWS {info['access_key_id']}:{base64.b64encode(digest).decode()}"
    return ask(s3_port, "PUT", f"/{info['bucket']}", {"Date": date, "Authorization": authorization})


SERVER = Server("HEADWATER_TEST_S3", missing, start)
