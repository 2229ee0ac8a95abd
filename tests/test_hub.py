"""The hub's path, run against a stand-in hub on loopback that speaks the part of its protocol a download needs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support import DATA, needs_data

from shard_eval.benchmarks import xstest

pytestmark = needs_data


class Hub(BaseHTTPRequestHandler):
    """Serves one file of one dataset at one revision."""

    content = b""

    def _answer(self, body: bool) -> None:
        wanted = f"/datasets/{xstest.SOURCE.repo}/resolve/{xstest.SOURCE.revision}/{xstest.SOURCE.filename}"
        found = self.path == wanted
        self.send_response(200 if found or self.path == "/" else 404)
        self.send_header("Content-Length", str(len(self.content) if found else 0))
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", xstest.SOURCE.revision)
        self.end_headers()
        if body and found:
            self.wfile.write(self.content)

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def log_message(self, format: str, *args: object) -> None:
        pass


def check(home: Path, content: bytes) -> subprocess.CompletedProcess[str]:
    """`shard data fetch xstest` without the stand-in folder, against the loopback hub."""
    Hub.content = content
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {k: v for k, v in os.environ.items() if k not in ("SHARD_DATA_DIR", "HF_HUB_OFFLINE")}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(home), "NO_PROXY": "*"}
    code = "from shard_eval.cli import main; main(['data', 'fetch', 'xstest'])"
    try:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    finally:
        server.shutdown()


def test_a_benchmark_comes_from_the_hub_by_revision_and_is_then_cached(tmp_path: Path) -> None:
    done = check(tmp_path, (DATA / "xstest" / "xstest_prompts.csv").read_bytes())
    assert done.returncode == 0, done.stderr
    assert "450 records" in done.stdout and f"{xstest.SOURCE.repo}@{xstest.SOURCE.revision[:12]}" in done.stdout
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    environment.pop("SHARD_DATA_DIR", None)
    code = "from shard_eval.cli import main; main(['data', 'check', 'xstest'])"
    again = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("harm", ["changed", "cut"])
def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path: Path, harm: str) -> None:
    content = (DATA / "xstest" / "xstest_prompts.csv").read_bytes()
    done = check(tmp_path, content.replace(b"kill", b"mend", 1) if harm == "changed" else content[:20_000])
    assert done.returncode == 2
    assert "pinned is" in done.stderr
