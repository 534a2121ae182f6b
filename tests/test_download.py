"""Downloads against a server on localhost: what goes wrong on a network, and nothing is left half
written.
"""

import hashlib
import io
import threading
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from unetv2.data import download, readers


class Server:
    """Serves `files`; `cut` requests are closed half way, `asked` counts the requests."""

    def __init__(self):
        self.files, self.cut, self.asked = {}, 0, 0
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"


class Handler(BaseHTTPRequestHandler):
    def __init__(self, server, *arguments):
        self.owner = server
        super().__init__(*arguments)

    def do_GET(self):
        self.owner.asked += 1
        if (content := self.owner.files.get(self.path)) is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.owner.cut:
            self.owner.cut -= 1
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    yield running
    running.httpd.shutdown()


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as content:
        for name, text in members.items():
            content.writestr(name, text)
    return buffer.getvalue()


def left(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_first_download_records_the_checksum_and_later_ones_hold_to_it(server, tmp_path):
    server.files["/a.zip"] = content = zipped({"x.txt": "x"})
    path = download.fetch(f"{server.url}/a.zip", tmp_path)
    digest = hashlib.sha256(content).hexdigest()
    assert path.read_bytes() == content
    assert (
        tmp_path / "a.zip.sha256"
    ).read_text() == f"{digest}  a.zip\n"  # the format of sha256sum -c
    download.fetch(f"{server.url}/a.zip", tmp_path)
    assert server.asked == 1  # there and whole: not fetched again
    path.unlink()
    server.files["/a.zip"] = zipped({"x.txt": "another"})
    with pytest.raises(ValueError, match=r"a.zip: .*hash.*to accept that, delete .*a.zip.sha256"):
        download.fetch(f"{server.url}/a.zip", tmp_path)
    assert left(tmp_path) == ["a.zip.sha256"]


def test_wrong_published_checksum_leaves_nothing(server, tmp_path):
    server.files["/a.zip"] = zipped({"x.txt": "x"})
    with pytest.raises(ValueError, match=r"hash of downloaded file"):
        download.fetch(f"{server.url}/a.zip", tmp_path, sha256="0" * 64)
    assert left(tmp_path) == []


def test_a_cut_connection_is_tried_again_cleanly(server, tmp_path):
    server.files["/a.zip"], server.cut = zipped({"x.txt": "x" * 5000}), 2
    path = download.fetch(f"{server.url}/a.zip", tmp_path)
    assert server.asked == 3 and path.read_bytes() == server.files["/a.zip"]


def test_a_connection_cut_every_time_leaves_nothing(server, tmp_path):
    server.files["/a.zip"], server.cut = zipped({"x.txt": "x" * 5000}), 99
    with pytest.raises(OSError, match=r"cannot fetch .*a.zip.*check the network"):
        download.fetch(f"{server.url}/a.zip", tmp_path)
    assert server.asked == 3 and left(tmp_path) == []


def test_refused_connection_and_missing_page(server, tmp_path):
    with pytest.raises(OSError, match=r"cannot fetch .*a.zip.*404"):
        download.fetch(f"{server.url}/a.zip", tmp_path)
    server.httpd.shutdown()
    server.httpd.server_close()
    with pytest.raises(OSError, match=r"cannot fetch .*a.zip.*check the network"):
        download.fetch(f"{server.url}/a.zip", tmp_path)
    assert left(tmp_path) == []


def test_an_archive_without_a_record_is_not_trusted(server, tmp_path):
    server.files["/a.zip"] = zipped({"x.txt": "x"})
    (tmp_path / "a.zip").write_bytes(server.files["/a.zip"][:40])  # left by a killed program
    assert download.fetch(f"{server.url}/a.zip", tmp_path).read_bytes() == server.files["/a.zip"]


@pytest.mark.parametrize(
    "member", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:/evil.txt"]
)
def test_members_that_point_outside_are_refused(tmp_path, member):
    archive = tmp_path / "in" / "a.zip"
    archive.parent.mkdir()
    archive.write_bytes(zipped({"good.txt": "x", member: "x"}))
    with pytest.raises(ValueError, match=r"will not unpack .*evil.txt.*points outside"):
        download.unpack(archive, tmp_path / "out")
    assert left(tmp_path) == ["a.zip"]


def test_a_member_that_names_the_folder_itself_is_no_harm(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped({"./": "", "./x.txt": "x"}))
    download.unpack(tmp_path / "a.zip", tmp_path / "out")
    assert left(tmp_path / "out") == ["x.txt"]


def test_links_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr(info, "/etc")
    with pytest.raises(ValueError, match="will not unpack 'link'"):
        download.unpack(archive, tmp_path / "out")


def test_a_damaged_archive_unpacks_nothing(tmp_path):
    archive = tmp_path / "a.zip"
    content = bytearray(zipped({"first.txt": "x" * 100, "x.txt": "abcdefgh" * 100}))
    content[content.index(b"abcdefgh") + 50] ^= 255  # a flipped byte in the second member
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"a.zip is damaged"):
        download.unpack(archive, tmp_path / "out")
    assert left(tmp_path) == ["a.zip"]
    archive.write_text("<html>log in first</html>")
    with pytest.raises(ValueError, match=r"a.zip is damaged: File is not a zip file"):
        download.unpack(archive, tmp_path / "out")


def test_a_dataset_end_to_end_and_again(server, tmp_path, monkeypatch, capsys):
    entry = dict(readers.registry()["kvasir"], pairs=3)
    entry["urls"] = [{"url": f"{server.url}/kvasir-seg.zip", "sha256": None}]
    monkeypatch.setitem(readers.registry(), "kvasir", entry)
    picture = cv2.imencode(".jpg", np.full((20, 20, 3), 90, np.uint8))[1].tobytes()
    members = {
        f"Kvasir-SEG/{sub}/cju{i}.jpg": picture for sub in ("images", "masks") for i in range(3)
    }
    server.files["/kvasir-seg.zip"] = zipped(members)
    download.main(["kvasir", "--data", str(tmp_path)])
    out = capsys.readouterr().out
    assert (
        "3 image and mask pairs" in out
        and "licence: research and educational" in out
        and "Jha" in out
    )
    assert len(readers.find("kvasir", tmp_path).pairs) == 3
    download.main(["kvasir", "--data", str(tmp_path)])
    assert server.asked == 1


def test_sets_without_a_link_print_instructions(tmp_path):
    with pytest.raises(SystemExit) as error:
        download.main(["pranet", "--data", str(tmp_path)])
    text = str(error.value)
    assert (
        "TrainDataset.zip" in text
        and "github.com/DengPingFan/PraNet" in text
        and str(tmp_path) in text
    )
    assert "Traceback" not in text and error.value.code != 0
    with pytest.raises(
        ValueError, match="unknown dataset to download 'kvassir'; did you mean 'kvasir'"
    ):
        download.download("kvassir", tmp_path)
