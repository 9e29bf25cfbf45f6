"""Published data sets that are not there: downloaded once, checked, and what is said where they cannot be."""

import hashlib
import re
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from dataset_files import (
    IDX_SETS,
    LISTING,
    archive,
    celeba_files,
    cifar_files,
    idx_files,
    pictures,
    tar,
    write,
    write_svhn,
    zipped,
)

from hatebm.data import NAMES, load
from hatebm.data.download import SOURCES
from hatebm.errors import UsageError


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, counts the requests, and can announce more bytes than it sends."""

    def do_GET(self):
        self.server.asked.append(self.path)
        super().do_GET()

    def send_header(self, key, value):
        if key == "Content-Length" and self.server.lie:
            value = str(int(value) + 1000)
        super().send_header(key, value)

    def log_message(self, *words):
        pass


@contextmanager
def serving(folder, lie=False):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        server.asked, server.lie = [], lie
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def publish(monkeypatch, name, server, files):
    """Let the files of a data set be those of a local server, with their own hashes."""
    base = f"http://127.0.0.1:{server.server_port}/"
    found = {file: (base + file, hashlib.sha256(data).hexdigest()) for file, data in files.items()}
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], files=found))
    return base


def published(name):
    """The files of a small data set of that name, packed as they are published."""
    if name in IDX_SETS:
        return zipped(idx_files()[0])
    if name == "cifar10":
        return {"cifar-10-binary.tar.gz": tar(cifar_files()[0])}
    return {"list_eval_partition.txt": LISTING, "img_align_celeba.zip": archive(celeba_files())}


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "celeba"])
def test_what_is_not_there_is_downloaded_once(tmp_path, monkeypatch, name):
    files = published(name)
    write(tmp_path / "there", files)
    with serving(tmp_path / "there") as server:
        publish(monkeypatch, name, server, files)
        first = load(name, root=str(tmp_path / "here"))
        assert sorted(server.asked) == sorted(f"/{file}" for file in files)
        assert below(tmp_path / "here") == sorted([name, *(f"{name}/{file}" for file in files)])
        again = load(name, root=str(tmp_path / "here"))
        assert len(server.asked) == len(files)
    write(tmp_path / "local", files)
    assert torch.equal(first.train, load(name, root=str(tmp_path / "local")).train)
    assert torch.equal(first.train, again.train)


def test_svhn_is_downloaded(tmp_path, monkeypatch):
    write_svhn(tmp_path / "there", pictures(3, 3, 32, 32), pictures(2, 3, 32, 32))
    files = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    with serving(tmp_path / "there") as server:
        publish(monkeypatch, "svhn", server, files)
        assert torch.equal(load("svhn", root=str(tmp_path)).train, pictures(3, 3, 32, 32))


def test_a_wrong_file_is_refused_and_not_kept(tmp_path, monkeypatch):
    files = published("cifar10")
    write(tmp_path / "there", {"cifar-10-binary.tar.gz": b"<html>too many visitors today</html>"})
    with serving(tmp_path / "there") as server:
        base = publish(monkeypatch, "cifar10", server, files)
        message = f"--data: what came from {base}cifar-10-binary.tar.gz is not the published cifar-10-binary.tar.gz"
        with pytest.raises(UsageError, match=re.escape(message)) as caught:
            load("cifar10", root=str(tmp_path / "here"))
        assert "try again, or get it from https://www.cs.toronto.edu/~kriz/cifar.html into" in str(caught.value)
        assert below(tmp_path / "here") == []
        write(tmp_path / "there", files)
        assert len(load("cifar10", root=str(tmp_path / "here")).train) == 10


def test_a_broken_transfer_leaves_nothing(tmp_path, monkeypatch):
    files = published("cifar10")
    write(tmp_path / "there", files)
    with serving(tmp_path / "there", lie=True) as server:
        base = publish(monkeypatch, "cifar10", server, files)
        with pytest.raises(UsageError, match=re.escape(f"cannot be downloaded from {base}cifar-10-binary.tar.gz")):
            load("cifar10", root=str(tmp_path / "here"))
        assert below(tmp_path / "here") == []


def test_without_a_network_the_address_and_the_flag_are_named(tmp_path, monkeypatch):
    with serving(tmp_path) as server:
        base = publish(monkeypatch, "mnist", server, published("mnist"))
        with pytest.raises(UsageError, match=r"^--data-root: train-images.* of mnist is not below .*HTTPError"):
            load("mnist", root=str(tmp_path / "here"))  # the server is there, the file is not
    with pytest.raises(UsageError, match=re.escape(f"{base}train-images-idx3-ubyte.gz (ConnectionError)")) as caught:
        load("mnist", root=str(tmp_path / "here"))
    assert str(caught.value).startswith("--data-root: train-images-idx3-ubyte.gz of mnist is not below")
    assert "\n" not in str(caught.value)
    assert below(tmp_path / "here") == []


def test_a_part_that_is_there_is_not_downloaded_again(tmp_path, monkeypatch):
    files = published("mnist")
    write(tmp_path / "there", files)
    write(tmp_path / "here", {file: data for file, data in files.items() if file.startswith("train")})
    with serving(tmp_path / "there") as server:
        publish(monkeypatch, "mnist", server, files)
        load("mnist", root=str(tmp_path / "here"))
        assert sorted(server.asked) == ["/t10k-images-idx3-ubyte.gz", "/t10k-labels-idx1-ubyte.gz"]


def test_every_published_file_has_an_address_and_a_hash():
    assert set(SOURCES) == set(NAMES) - {"digits"}
    for source in SOURCES.values():
        for file, (url, sha256) in source.files.items():
            assert url.endswith(file) or "drive.usercontent.google.com/download?id=" in url
            assert re.fullmatch("[0-9a-f]{64}", sha256)
