"""Requests of other web pages, and under names that are not the page's, are refused."""

import http.client
import logging
import socket
from urllib.parse import urlsplit

import pytest

from daa_diffusers.demo.served_names import ServedNames, bare_name
from daa_diffusers.errors import ConfigurationError

CALL = "/gradio_api/call/restore"
JOIN = "/gradio_api/queue/join"
UPLOAD = "/gradio_api/upload"


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """Of a page on 127.0.0.1 that is also served as photos.example.org."""
    pytest.importorskip("gradio", reason="the page needs the extra demo")
    from daa_diffusers.demo.serving import Settings, served

    runs = tmp_path_factory.mktemp("runs")
    with served(Settings(allow_hosts=("Photos.example.org",), runs=runs, device="cpu")) as address:
        yield urlsplit(address).port


def ask(port, method, path, headers, body=None, machine="127.0.0.1"):
    """Status and text of a request with exactly these headers beside its length."""
    connection = http.client.HTTPConnection(machine, port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value.replace("PORT", str(port)))
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        if answer.headers.get_content_type() == "text/event-stream":
            return answer.status, ""
        return answer.status, answer.read().decode()
    finally:
        connection.close()


RIGHT = [
    [("Host", "127.0.0.1:PORT")],
    [("Host", "localhost:PORT"), ("Origin", "http://localhost:PORT")],
    [("Host", "LocalHost.:PORT"), ("Origin", "http://localhost:PORT")],
    [("Host", "[::1]:PORT"), ("Origin", "http://[::1]:PORT")],
    [("Host", "127.0.0.1:9000"), ("Origin", "http://127.0.0.1:9000")],  # a port that is forwarded to the page's
    [("Host", "photos.example.org"), ("Origin", "https://photos.example.org")],
    [("Host", "127.0.0.1:PORT"), ("Origin", "https://photos.example.org")],  # a proxy that changes the host
    [("Host", "127.0.0.1:PORT"), ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Dest", "empty")],
]
WRONG = {
    "a foreign host": [("Host", "evil.example:PORT")],
    "a rebound name": [("Host", "evil.example:PORT"), ("Origin", "http://evil.example:PORT")],
    "a name that begins alike": [("Host", "localhost.evil.example:PORT")],
    "a name that ends alike": [("Host", "evil-photos.example.org")],
    "another address": [("Host", "192.168.7.7:PORT")],
    "a foreign page": [("Host", "127.0.0.1:PORT"), ("Origin", "https://evil.example")],
    "another page of this machine": [("Host", "localhost:PORT"), ("Origin", "http://localhost:8888")],
    "a page without a name": [("Host", "127.0.0.1:PORT"), ("Origin", "null")],
    "a name inside an address": [("Host", "127.0.0.1:PORT"), ("Origin", "http://127.0.0.1:PORT@evil.example")],
    "two hosts": [("Host", "127.0.0.1:PORT"), ("Host", "evil.example")],
    "no host": [],
    "what a foreign page embeds": [
        ("Host", "127.0.0.1:PORT"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Dest", "iframe"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("headers", RIGHT, ids=str)
def test_the_page_s_own_names_are_served(port, headers):
    assert ask(port, "GET", "/config", headers)[0] == 200
    sent = b'{"data": [], "fn_index": 0, "session_hash": "a"}'
    status, said = ask(port, "POST", JOIN, [*headers, ("Content-Type", "application/json")], sent)
    assert status != 403, said
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    status, said = ask(port, "POST", UPLOAD, [*headers, ("Content-Type", "multipart/form-data; boundary=x")], part)
    assert status == 200 and "a.txt" in said


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_others_are_refused_everywhere_and_it_is_logged(port, headers, caplog):
    paths = ["/", "/config", "/gradio_api/queue/data?session_hash=a", "/gradio_api/info", "/gradio_api/file=/x", "/no"]
    asked = [("GET", path, None) for path in paths]
    asked += [("POST", path, b'{"data": []}') for path in (CALL, JOIN, UPLOAD)]
    asked += [("OPTIONS", JOIN, None), ("HEAD", "/", None)]
    with caplog.at_level(logging.WARNING, logger="daa_diffusers.demo.served_names"):
        for method, path, body in asked:
            status, said = ask(port, method, path, headers, body)
            if status == 400 and headers in (WRONG["no host"], WRONG["two hosts"]):  # the server's own refusal
                continue
            assert status == 403, (method, path, said)
            assert "--allow-host" in caplog.messages[-1] and repr(path.partition("?")[0]) in caplog.messages[-1]


def test_a_websocket_of_a_foreign_page_is_refused(port):
    upgrade = [("Host", "127.0.0.1:PORT"), ("Origin", "https://evil.example"), ("Connection", "Upgrade")]
    upgrade += [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]
    upgrade += [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]
    assert ask(port, "GET", "/gradio_api/queue/join", upgrade)[0] == 403


def test_a_link_on_another_page_opens_the_page(port):
    headers = [("Host", "127.0.0.1:PORT"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Dest", "document")]
    assert ask(port, "GET", "/", headers)[0] == 200
    assert ask(port, "POST", JOIN, headers, b"{}")[0] == 403


def test_on_the_loopback_of_ipv6_it_is_served_too(tmp_path):
    pytest.importorskip("gradio", reason="the page needs the extra demo")
    from daa_diffusers.demo.serving import Settings, served

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with served(Settings(host="::1", runs=tmp_path, device="cpu")) as address:
        parts = urlsplit(address)
        assert parts.hostname == "::1"
        for host, wanted in (("[::1]:PORT", 200), ("localhost:PORT", 200), ("evil.example", 403)):
            assert ask(parts.port, "GET", "/config", [("Host", host)], machine="::1")[0] == wanted


def refused(names, host, *origin):
    headers = [(b"host", host.encode()), *((b"origin", one.encode()) for one in origin)]
    return names.refusal(headers) is not None


def test_a_page_of_all_networks_answers_to_addresses_and_this_machine_s_name():
    names = ServedNames("0.0.0.0")
    assert not refused(names, "192.168.7.7:7860", "http://192.168.7.7:7860")
    assert not refused(names, f"{socket.gethostname()}:7860")
    assert refused(names, "evil.example:7860") and refused(names, "192.168.7.7:7860", "http://192.168.7.8:7860")


def test_a_page_of_one_network_answers_to_that_address_and_a_shared_one_to_its_name():
    names = ServedNames("192.168.7.7")
    assert not refused(names, "192.168.7.7:7860") and refused(names, "192.168.7.8:7860")
    assert refused(names, "abc.gradio.live")
    names.allow("abc.gradio.live")
    assert not refused(names, "abc.gradio.live", "https://abc.gradio.live")


@pytest.mark.parametrize(
    "name", ["https://photos.example.org", "photos.example.org:80", "*", "*.example.org", "", "a b"]
)
def test_what_is_no_name_cannot_be_allowed(name):
    with pytest.raises(ConfigurationError, match="`--allow-host` must be a host name"):
        bare_name(name)
