"""Tables fetched from a server on this machine: whole, broken off, of other content, not at all."""

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from analysis.downloads import sources, transfer
from analysis.downloads.sources import COLLECTIONS, Collection, listed
from tests.in_process import call

COMMIT = "0" * 40
DEAD = "http://127.0.0.1:9"  # the port of `discard`, where nobody listens


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def upper(files: Mapping[str, bytes]) -> dict[str, str]:
    return {"table.csv": "".join(data.decode().upper() for data in files.values())}


FILES = {"data/a=1.txt": b"params,tokens\n", "b.txt": b"1,2\n"}
TABLE = b"PARAMS,TOKENS\n1,2\n"


def collection(**changes) -> Collection:
    fields = {
        "paper": "Somebody 2024",
        "repository": "owner/name",
        "commit": COMMIT,
        "licence": "",
        "files": {path: digest(data) for path, data in FILES.items()},
        "convert": upper,
        "tables": {"table.csv": digest(TABLE)},
    }
    return Collection(**(fields | changes))


class Handler(BaseHTTPRequestHandler):
    """Serves `server.files` by path; a length in `server.cut` ends an answer there."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404, "Not Found")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: self.server.cut])

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[ThreadingHTTPServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.files = {f"/owner/name/{COMMIT}/{path}": data for path, data in FILES.items()}
    running.cut, running.asked = None, []
    thread = threading.Thread(target=running.serve_forever, args=(0.02,))
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def base(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def test_a_table_is_fetched_once_and_then_there(server, tmp_path):
    seen = []
    first = transfer.fetch_collection(
        collection(), tmp_path, base=base(server), on_progress=lambda *a: seen.append(a)
    )
    assert first == {"table.csv": "written"}
    assert (tmp_path / "table.csv").read_bytes() == TABLE
    assert seen[-1] == ("files of owner/name", 2, 2)
    asked = len(server.asked)
    again = transfer.fetch_collection(collection(), tmp_path, base=base(server))
    assert again == {"table.csv": "already there"}
    assert len(server.asked) == asked == 2


def refused(server, tmp_path, words, error=ValueError, **changes):
    with pytest.raises(error, match=words) as raised:
        transfer.fetch_collection(collection(**changes), tmp_path, base=base(server))
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
    return str(raised.value)


def test_a_file_of_another_content_is_refused_with_both_hashes(server, tmp_path):
    path = f"/owner/name/{COMMIT}/b.txt"
    server.files[path] = b"9,9\n"
    said = refused(server, tmp_path, "nothing was written")
    assert f"{base(server)}{path}" in said
    assert digest(b"9,9\n") in said
    assert digest(FILES["b.txt"]) in said


def test_a_download_that_breaks_off_is_said_so(server, tmp_path):
    server.cut = 3
    refused(server, tmp_path, r"broke off after 3 of \d+ bytes", OSError)


def test_a_file_that_is_not_there_is_said_so(server, tmp_path):
    server.files.clear()
    refused(server, tmp_path, "answers 404 Not Found", OSError)


def test_a_file_that_is_too_large_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "MOST_BYTES", 3)
    refused(server, tmp_path, "sends more than 3 bytes")


def test_a_file_that_takes_too_long_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "LONGEST_SECONDS", -1.0)
    refused(server, tmp_path, "cannot be reached .* bytes in", OSError)


def test_a_table_that_came_out_otherwise_is_not_written(server, tmp_path):
    refused(server, tmp_path, "table.csv comes out with", tables={"table.csv": digest(b"other")})


def test_another_file_of_the_name_stays(server, tmp_path):
    (tmp_path / "table.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"is another file .* move it away"):
        transfer.fetch_collection(collection(), tmp_path, base=base(server))
    assert (tmp_path / "table.csv").read_text() == "mine"
    assert not server.asked


@pytest.mark.parametrize("bad", ["file:///etc", "ftp://x/y", "https://", "mirror"])
def test_a_mirror_is_an_address_of_http(bad):
    with pytest.raises(ValueError, match="no address of a mirror"):
        transfer.check_base(bad)


# --- the command --------------------------------------------------------------------------------


def test_offline_the_command_ends_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("SCALING_MIRROR", DEAD)
    done = call("analysis.published_tables", str(tmp_path / "tables"))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {DEAD}/epoch-research/analyzing-chinchilla/9225883")
    assert "cannot be reached (" in last
    assert "--mirror" in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "tables").exists() or not list((tmp_path / "tables").iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ([], 2, "give one folder"),
        (["a", "b"], 2, "give one folder"),
        (["a", "--mirror=x"], 1, "no address of a mirror"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, status, words, tmp_path):
    done = call("analysis.published_tables", *arguments, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1)
    assert words in done.stderr


def test_the_command_says_licences_and_what_came(server, tmp_path, monkeypatch):
    ours = (collection(), collection(paper="Else 2024", licence="MIT"))
    monkeypatch.setattr("analysis.published_tables.COLLECTIONS", ours)
    done = call("analysis.published_tables", str(tmp_path), f"--mirror={base(server)}/")
    assert done.returncode == 0, done.stderr
    assert "the repository states no licence" in done.stderr
    assert "Else 2024: owner/name @ 0000000, licence MIT" in done.stderr
    states = [line.split("  ")[0].strip() for line in done.stdout.splitlines()]
    assert states == ["written", "already there"]


# --- the collections themselves -----------------------------------------------------------------


def test_every_collection_is_pinned_and_hashed():
    names = [name for c in COLLECTIONS for name in c.tables]
    assert len(names) == len(set(names)) == 5
    assert len(listed("gadre2024_files.txt")) == 104
    for one in COLLECTIONS:
        assert len(one.commit) == 40
        assert one.repository.count("/") == 1
        hashes = (*one.files.values(), *one.tables.values())
        assert all(len(h) == 64 and int(h, 16) for h in hashes)
        assert all(one.address(p).startswith(sources.GITHUB) for p in one.files)


def test_the_hashes_are_those_of_the_tables_that_the_tests_read(shared):
    for one in COLLECTIONS:
        for name, expected in one.tables.items():
            assert digest((shared / "fits" / name).read_bytes()) == expected


def test_copies_of_the_published_files_become_our_tables(tmp_path, shared, monkeypatch):
    """Reads the files from a folder, $SCALING_PUBLISHED_FILES/owner/name/path; skipped without."""
    folder = os.environ.get("SCALING_PUBLISHED_FILES")
    if not folder:
        pytest.skip("set SCALING_PUBLISHED_FILES to a folder owner/name/path of the files")
    for one in COLLECTIONS:
        data = {}
        for path, expected in one.files.items():
            with open(os.path.join(folder, one.repository, path), "rb") as stream:
                data[path] = stream.read()
            assert digest(data[path]) == expected
        for name, text in one.convert(data).items():
            assert text.encode() == (shared / "fits" / name).read_bytes()
