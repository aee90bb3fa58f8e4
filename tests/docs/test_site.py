"""The site: built from the docs and docstrings without network, complete, and fetching nothing when it is read."""

import os
import re
import subprocess
import sys

import pytest
import yaml

import daa_diffusers

from ..conftest import PROJECT_ROOT

FETCHED = re.compile(r"<(?:script|img|iframe)[^>]+src=\"https?:|<link[^>]+rel=\"?(?:stylesheet|preconnect)[^>]+https?:")
NO_NETWORK = """
import socket, sys

def refuse(*_, **__):
    raise OSError("the documentation is built without network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli

cli(["build", "--strict", "--site-dir", sys.argv[1]])
"""


@pytest.mark.slow
def test_the_site_builds_without_network_and_without_warnings(tmp_path):
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(PROJECT_ROOT)}
    command = [sys.executable, "-c", NO_NETWORK, str(tmp_path / "site")]
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {page: page.read_text(encoding="utf-8") for page in (tmp_path / "site").rglob("*.html")}
    assert [str(page) for page, text in pages.items() if FETCHED.search(text)] == []
    reference = "".join(text for page, text in pages.items() if page.parent.name == "api")
    described = set(re.findall(r"<h[1-6] id=\"(daa_diffusers[\w.]+)\"", reference))
    names = {name for name in daa_diffusers.__all__ if not name.startswith("__")}
    assert names <= {path.rpartition(".")[2] for path in described}
    assert "hold_to_start" in pages[tmp_path / "site" / "api" / "training.html"]


def test_every_page_of_the_docs_is_in_the_navigation():
    navigation = yaml.safe_load((PROJECT_ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = set(re.findall(r"[\w/]+\.md", str(navigation)))
    assert listed == {p.relative_to(PROJECT_ROOT / "docs").as_posix() for p in (PROJECT_ROOT / "docs").rglob("*.md")}
