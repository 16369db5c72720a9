"""Plain HTTP as most of the world serves it: nginx with listings of folders, and the same folder behind a password.

A test writes its files into the folder and reads them by HTTP.
"""

from __future__ import annotations

import secrets
from typing import TypedDict

from .process import Daemons, Server, ask, find

# One process: a master that is killed leaves its workers, and as root they would be a user who may not read the folder.
CONFIGURATION = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/errors.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/temporary;
    proxy_temp_path {folder}/temporary;
    fastcgi_temp_path {folder}/temporary;
    uwsgi_temp_path {folder}/temporary;
    scgi_temp_path {folder}/temporary;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/root;
        autoindex on;
        location /private/ {{
            auth_basic "private";
            auth_basic_user_file {folder}/passwords;
        }}
    }}
}}
"""


class HttpServer(TypedDict):
    """Where the folder is, on disk and by HTTP, without and with a password."""

    url: str
    private: str
    user: str
    password: str
    folder: str


def missing() -> list[str]:
    """What is not installed."""
    return [] if find("nginx") else ["nginx (apt: nginx-light)"]


def start(daemons: Daemons) -> HttpServer:
    """Starts the server; returns when it has shown its folder."""
    (port,) = daemons.ports(1)
    folder, user, password = daemons.folder, "reader", secrets.token_hex(10)
    data = folder / "root/data"
    data.mkdir(parents=True)
    (folder / "root/private").symlink_to("data")
    (folder / "passwords").write_text(f"{user}:{{PLAIN}}{password}\n")
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder, port=port))
    daemons.spawn("nginx", [find("nginx") or "nginx", "-p", folder, "-c", "nginx.conf"])
    daemons.wait_for("list its folder", lambda: ask(port, "GET", "/data/"))
    url = f"http://127.0.0.1:{port}"
    return HttpServer(url=f"{url}/data", private=f"{url}/private", user=user, password=password, folder=str(data))


SERVER = Server("HEADWATER_TEST_HTTP", missing, start)
