"""What label.py --serve serves, without a browser: who is answered, what is saved and undone."""

import http.client
import io
import json
import socket
import threading

import numpy as np
import pytest
from PIL import Image

from src_py.clusters import labelling as labelling_module
from src_py.clusters.corrections import Corrections
from src_py.clusters.labelling import Labelling, Said
from src_py.clusters.names import ClusterNames
from src_py.images.ranges import INTEGER
from src_py.output.label_server import LARGEST_BODY, LabelServer
from src_py.output.served_images import SIDE, ServedImages
from src_py.run import claim
from src_py.run.errors import UserError
from src_py.run.files import RunFiles
from tests.conftest import write_image
from tests.made_runs import write_stage

IMAGES, CLUSTERS = 12, 3


class Connection(http.client.HTTPConnection):
    """One that sends what no browser would."""

    def _encode_request(self, request):
        return request.encode("latin-1")


class Client:
    """Asks a server as its page does, or otherwise."""

    def __init__(self, server):
        self.server, self.host = server, f"127.0.0.1:{server.server_port}"
        self.root = f"/{server.token}/"

    def ask(self, path, method="GET", body=None, **headers):
        """path: below the token, or absolute where it begins with a slash."""
        connection = Connection("127.0.0.1", self.server.server_port, timeout=30)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        target = path if path.startswith("/") else self.root + path
        connection.request(method, target, body, {"Host": self.host} | headers)
        answer = connection.getresponse()
        answer.body = answer.read()
        connection.close()
        return answer

    def get(self, path):
        answer = self.ask(path)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    def post(self, action, status=200, **fields):
        fields = {"version": self.get("state")["version"], **fields}
        return self.send(action, json.dumps(fields), status)

    def send(self, action, body, status):
        headers = {"Content_Type": "application/json", "Origin": f"http://{self.host}"}
        answer = self.ask(action, "POST", body, **headers)
        assert answer.status == status, answer.body
        return json.loads(answer.body)


@pytest.fixture
def files(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return RunFiles("mine")


@pytest.fixture
def labelling(files):
    """Twelve images in three clusters; each half of a cluster looks alike."""
    names = [f"photos/{number:02d}.png" for number in range(IMAGES)]
    predicted = np.arange(IMAGES) % CLUSTERS
    features = np.eye(8)[np.arange(IMAGES) % 2 * 4 + predicted].astype(np.float32)
    said = Said(ClusterNames(CLUSTERS, {}, (), "5f70"), Corrections(CLUSTERS, {}))
    return Labelling(files, names, predicted, features, said)


@pytest.fixture
def client(labelling, tmp_path):
    for number, name in enumerate(labelling.images):
        write_image(tmp_path / name, number % 4, number, size=200 if number == 0 else 24)
    images = ServedImages(labelling.images, tmp_path, loader=None)
    facts = {"run": "mine", "names": labelling.images}
    server = LabelServer(labelling, images, facts)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield Client(server)
    server.shutdown()
    server.server_close()


def saved(files):
    names = ClusterNames.load(files.checkpoints / "labels.json", CLUSTERS, "5f70")
    return names, Corrections.load(files.corrections, names.clusters).given


# --- who is answered -----------------------------------------------------------------------------


def test_the_page_and_its_parts_are_served_to_who_has_the_address(client):
    assert client.server.url == f"http://{client.host}{client.root}"
    assert client.server.server_address[0] == "127.0.0.1"
    assert len(client.server.token) >= 32
    for path, kind in (
        ("", "text/html"),
        ("label_page.js", "text/javascript"),
        ("label_page.css", "text/css"),
        ("page_style.css", "text/css"),
        ("state", "application/json"),
        ("thumbnail/3", "image/jpeg"),
        ("image/3", "image/png"),
    ):
        answer = client.ask(path)
        assert answer.status == 200 and answer.headers.get_content_type() == kind
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert client.get("images")["names"] == client.server.labelling.images


def test_the_page_asks_nothing_of_another_place(client):
    for path in ("", "label_page.js", "label_page.css", "page_style.css"):
        text = client.ask(path).body.decode()
        assert "http:" not in text and "https:" not in text and "//" not in text.replace("// ", "")


@pytest.mark.parametrize("token", ["", "/", "/x/", "/{token}x/", "/{short}/", "/é/"])
def test_without_the_token_nothing_is_answered(client, token):
    own = client.server.token
    path = token.format(token=own, short=own[:-1]).encode().decode("latin-1") or "/state"
    for more in ("state", "", "thumbnail/0", "name"):
        answer = client.ask(path + more)
        assert answer.status == 403 and b"names" not in answer.body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "", "[::1]"])
def test_another_host_is_refused(client, host):
    """As it is when the name of another site is made to lead here (DNS rebinding)."""
    answer = client.ask("state", Host=host.format(port=client.server.server_port))
    assert answer.status == 403


def test_two_hosts_and_none_are_refused(client):
    for hosts in ([], [client.host, client.host], [client.host, "evil.example"]):
        with socket.create_connection(("127.0.0.1", client.server.server_port)) as connection:
            lines = [f"GET {client.root}state HTTP/1.1", *(f"Host: {host}" for host in hosts)]
            connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
            assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 403")


def test_localhost_is_the_same_machine(client):
    assert client.ask("state", Host=f"localhost:{client.server.server_port}").status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://{host}", "http://{host}.evil.example", ""]
)
def test_another_origin_is_refused(client, labelling, origin):
    origin = origin.format(host=client.host)
    body = json.dumps({"version": 0, "cluster": 0, "name": "cat"})
    headers = {"Origin": origin, "Content_Type": "application/json"}
    assert client.ask("name", "POST", body, **headers).status == 403
    assert client.ask("state", Origin=origin).status == 403
    assert labelling.said.names.names == {}


def test_a_change_without_an_origin_or_as_a_form_is_refused(client, labelling):
    body = json.dumps({"version": 0, "cluster": 0, "name": "cat"})
    origin = f"http://{client.host}"
    assert client.ask("name", "POST", body, Content_Type="application/json").status == 403
    plain = client.ask("name", "POST", body, Content_Type="text/plain", Origin=origin)
    assert plain.status == 415
    assert labelling.said.names.names == {}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_other_methods_are_refused(client, method):
    answer = client.ask("state", method)
    assert answer.status == 405 and answer.headers["Allow"] == "GET, POST"
    assert client.ask("/state", method).status == 403


def test_an_action_is_not_a_page_nor_a_page_an_action(client):
    assert client.ask("undo").status == 404
    assert client.send("state", "{}", 404)["error"]


@pytest.mark.parametrize(
    "path",
    [
        "../label_server.py",
        "..%2flabel_server.py",
        "label_server.py",
        "image/../../photos/00.png",
        "image/photos/00.png",
        "image/%2e%2e",
        "image/0/..",
        "image/-1",
        "image/12",
        "image/999999999999",
        "image/0x1",
        "image/٣",
        "thumbnail/",
        "thumbnail/1.5",
        "state?x",
        "/etc/passwd",
    ],
)
def test_only_numbers_of_images_lead_to_a_file(client, path):
    answer = client.ask(path.encode().decode("latin-1"))
    assert answer.status in (403, 404) and b"import" not in answer.body


# --- images --------------------------------------------------------------------------------------


def opened(answer):
    return Image.open(io.BytesIO(answer.body))


def test_thumbnails_are_small_and_kept_within_a_bound(client, monkeypatch):
    large, small = client.ask("thumbnail/0"), client.ask("thumbnail/1")
    assert opened(large).size == (SIDE, SIDE) and opened(small).size == (24, 24)
    assert "max-age" in large.headers["Cache-Control"]
    images = client.server.images
    made = []
    make = images._make_thumbnail
    monkeypatch.setattr(images, "_make_thumbnail", lambda row: made.append(row) or make(row))
    assert client.ask("thumbnail/0").body == large.body and made == []
    monkeypatch.setattr("src_py.output.served_images.CACHE_BYTES", 2 * len(large.body))
    for row in range(IMAGES):
        images.thumbnail(row)
    assert images._kept_bytes == sum(map(len, images._kept.values())) <= 2 * len(large.body)
    assert 0 not in images._kept and IMAGES - 1 in images._kept


def test_an_image_comes_as_the_file_that_it_is(client, tmp_path):
    name = client.server.labelling.images[2]
    assert client.ask("image/2").body == (tmp_path / name).read_bytes()
    Image.new("RGB", (30, 20), "red").save(tmp_path / name, "TIFF")  # under a wrong extension
    answer = client.ask("image/2")
    assert opened(answer).format == "JPEG" and opened(answer).size == (30, 20)


def test_an_image_too_long_for_a_jpeg_is_sent_smaller(client, tmp_path):
    name = client.server.labelling.images[2]
    Image.new("RGB", (70_000, 3), "red").save(tmp_path / name, "TIFF")
    answer = client.ask("image/2")
    assert answer.status == 200 and opened(answer).size == (16_384, 1)


def test_numbers_of_more_than_8_bits_are_seen_by_the_runs_range(tmp_path):
    """By its own range a dim image would be as bright as any other."""
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16)).save(tmp_path / "x.tif")
    dim = ServedImages(["x.tif"], tmp_path, None, {INTEGER: (0, 4095)})
    alone = ServedImages(["x.tif"], tmp_path, None)
    for images, brightest in ((dim, 16), (alone, 255)):
        original, kind = images.original(0)
        assert kind == "image/jpeg"
        for content in (original, images.thumbnail(0)):
            found = np.asarray(Image.open(io.BytesIO(content)).convert("L")).max()
            assert abs(int(found) - brightest) <= 4


def test_a_file_that_is_gone_or_no_image_any_more_is_said(client, tmp_path):
    (tmp_path / client.server.labelling.images[2]).unlink()
    (tmp_path / client.server.labelling.images[3]).write_text("<script>alert(1)</script>")
    for path in ("image/2", "thumbnail/2", "image/3", "thumbnail/3"):
        answer = client.ask(path)
        assert answer.status == 404 and answer.headers.get_content_type() == "application/json"
        assert b"script" not in answer.body


# --- what is said --------------------------------------------------------------------------------


def test_names_and_merges_are_saved_as_they_are_made(client, files):
    state = client.post("name", cluster=1, name=" cat ")["state"]
    assert state["groups"][1] == {"members": [1], "name": "cat", "suggestions": []}
    assert saved(files)[0].names == {1: "cat"}
    state = client.post("merge", clusters=[1, 0])["state"]
    assert [group["members"] for group in state["groups"]] == [[0, 1], [2]]
    assert saved(files)[0].merge == ((0, 1),)
    client.post("take_apart", cluster=1)
    client.post("name", cluster=1, name="")
    assert saved(files) == (ClusterNames(CLUSTERS, {}, (), "5f70"), {})
    assert sorted(path.name for path in files.checkpoints.iterdir()) == ["labels.json"]


def test_images_are_moved_and_left_to_the_classifier_again(client, files):
    state = client.post("move", rows=[0, 4], cluster=2)["state"]
    assert state["corrections"] == [[0, 2], [4, 2]]
    assert saved(files)[1] == {"photos/00.png": 2, "photos/04.png": 2}
    assert client.post("take_back", rows=[0])["state"]["corrections"] == [[4, 2]]
    assert saved(files)[1] == {"photos/04.png": 2}


def test_images_are_moved_to_a_new_cluster_with_a_name(client, files):
    state = client.post("move", rows=[0, 4], cluster="new", name="dog")["state"]
    assert state["groups"][3]["name"] == "dog"
    names, given = saved(files)
    assert names.clusters == 4 and names.name_of(3) == "dog" and set(given.values()) == {3}


def test_a_cluster_is_split_by_what_its_images_look_like(client, files):
    client.post("move", rows=[9], cluster=1)  # of rows 0 and 6, which are alike, 3 and 9
    client.post("split", cluster=0)
    names, given = saved(files)
    assert names.clusters == 4
    assert given == {"photos/03.png": 3, "photos/09.png": 1}
    assert "cluster_3" in client.get("state")["undo"]


def test_the_bound_on_splits_does_not_count_the_classifiers_clusters(client, files, monkeypatch):
    monkeypatch.setattr("src_py.clusters.labelling.MOST_ADDED", 1)
    client.post("move", rows=[0], cluster="new")
    assert saved(files)[0].clusters == CLUSTERS + 1
    answer = client.post("move", status=400, rows=[4], cluster="new")
    assert "have been split off" in answer["error"]


def test_every_step_is_undone_and_done_again(client, files):
    steps = [
        ("name", {"cluster": 0, "name": "cat"}),
        ("move", {"rows": [1, 2], "cluster": 0}),
        ("split", {"cluster": 0}),
        ("name", {"cluster": 3, "name": "dog"}),
        ("merge", {"clusters": [1, 3]}),
        ("take_back", {"rows": [1]}),
        ("take_apart", {"cluster": 3}),
    ]
    seen = [saved(files)]
    for action, fields in steps:
        client.post(action, **fields)
        seen.append(saved(files))
    for before in reversed(seen[:-1]):
        client.post("undo")
        assert saved(files) == before
    assert client.get("state")["undo"] == "" and not files.corrections.exists()
    assert client.post("undo", status=400)["error"] == "there is nothing to undo"
    for after in seen[1:]:
        client.post("redo")
        assert saved(files) == after
    client.post("undo")
    client.post("name", cluster=2, name="bird")  # what was undone is gone then
    assert client.post("redo", status=400)["error"]


def test_undo_is_there_after_the_page_was_loaded_again(client, files):
    client.post("name", cluster=0, name="cat")
    client.ask("")
    assert client.get("state")["undo"] == "cluster 0 named cat"
    client.post("undo")
    assert saved(files)[0].names == {}


def test_steps_are_kept_up_to_a_bound(client, monkeypatch):
    monkeypatch.setattr(labelling_module, "MOST_STEPS", 2)
    for name in "abcd":
        client.post("name", cluster=0, name=name)
    client.post("undo")
    state = client.post("undo")["state"]
    assert state["groups"][0]["name"] == "b" and state["undo"] == ""


def test_of_two_pages_the_one_that_has_not_seen_the_others_step_is_refused(client, files):
    seen = client.get("state")["version"]
    client.post("name", version=seen, cluster=0, name="cat")
    answer = client.post("name", status=409, version=seen, cluster=0, name="dog")
    assert "another page" in answer["error"]
    assert answer["state"]["groups"][0]["name"] == "cat"
    assert client.post("undo", status=409, version=seen)
    assert saved(files)[0].names == {0: "cat"}


def test_many_at_once_leave_whole_files(client, files):
    seen = client.get("state")["version"]
    answers = []

    def name(text):
        body = json.dumps({"version": seen, "cluster": 0, "name": text})
        headers = {"Content_Type": "application/json", "Origin": f"http://{client.host}"}
        answers.append(client.ask("name", "POST", body, **headers).status)

    threads = [threading.Thread(target=name, args=(f"name {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [409] * 7
    assert saved(files)[0].names.keys() == {0}


def test_what_another_program_has_written_is_not_overwritten(client, files):
    client.post("name", cluster=0, name="cat")
    ClusterNames(CLUSTERS, {1: "dog"}, (), "5f70").write(files.checkpoints / "labels.json")
    answer = client.post("name", status=409, cluster=0, name="bird")
    assert "another program" in answer["error"]
    assert saved(files)[0].names == {1: "dog"}


def test_nothing_is_saved_in_the_numbering_of_an_earlier_training(client, files):
    """Though it left neither of a person's files, as there was none."""
    write_stage(files, "scan")
    answer = client.post("move", status=409, rows=[1], cluster=0)
    assert "scan.py" in answer["error"] and "start it again" in answer["error"]
    assert client.post("undo", status=409)
    assert not files.corrections.exists()


def test_a_step_is_to_be_tried_again_where_another_program_writes_on(client, files, monkeypatch):
    client.post("name", cluster=0, name="cat")
    monkeypatch.setattr(claim, "LONGEST_SWITCH", 0.05)
    with claim.editing(files):
        for action, fields in (("name", {"cluster": 0, "name": "dog"}), ("undo", {})):
            answer = client.post(action, status=400, **fields)
            assert answer["error"] == "another program is writing; try again"
    client.post("name", cluster=0, name="dog")
    assert saved(files)[0].names == {0: "dog"}


def test_a_step_that_cannot_be_saved_is_not_taken(client, files, monkeypatch):
    client.post("move", rows=[1], cluster=0)
    before = saved(files)

    def full(self, path):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ClusterNames, "write", full)
        assert "No space" in client.post("move", status=500, rows=[2], cluster=0)["error"]
    assert saved(files) == before
    assert client.get("state")["corrections"] == [[1, 0]]
    client.post("move", rows=[2], cluster=0)
    assert saved(files)[1] == {"photos/01.png": 0, "photos/02.png": 0}


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("name", {}),
        ("name", {"cluster": 0}),
        ("name", {"cluster": "0", "name": "cat"}),
        ("name", {"cluster": 0, "name": 5}),
        ("name", {"cluster": 0, "name": "a\nb"}),
        ("name", {"cluster": 0, "name": "\ud800"}),
        ("name", {"cluster": 0, "name": "x" * 201}),
        ("name", {"cluster": 3, "name": "cat"}),
        ("name", {"cluster": -1, "name": "cat"}),
        ("name", {"cluster": True, "name": "cat"}),
        ("name", {"version": None, "cluster": 0, "name": "cat"}),
        ("merge", {"clusters": [0]}),
        ("merge", {"clusters": [0, 0]}),
        ("merge", {"clusters": []}),
        ("merge", {"clusters": [0, 9]}),
        ("merge", {"clusters": "01"}),
        ("take_apart", {"cluster": 9}),
        ("move", {"rows": [0], "cluster": 3}),
        ("move", {"rows": [0], "cluster": -1}),
        ("move", {"rows": [0], "cluster": "old"}),
        ("move", {"rows": [], "cluster": 1}),
        ("move", {"rows": [12], "cluster": 1}),
        ("move", {"rows": [-1], "cluster": 1}),
        ("move", {"rows": [10**30], "cluster": 1}),
        ("move", {"rows": ["photos/00.png"], "cluster": 1}),
        ("move", {"rows": {"0": 1}, "cluster": 1}),
        ("take_back", {"rows": [0.5]}),
        ("split", {"cluster": 7}),
        ("split", {"cluster": None}),
    ],
)
def test_a_wrong_step_is_said_and_changes_nothing(client, files, action, fields):
    answer = client.post(action, status=400, **fields)
    assert answer["error"] and "\n" not in answer["error"] and "Traceback" not in answer["error"]
    assert client.get("state")["version"] == 0 and not files.checkpoints.exists()


@pytest.mark.parametrize("body", ["", "{", "[]", "7", "null", '"x"', "[" * 100_000, "\xff{}"])
def test_what_is_no_object_of_json_is_refused(client, body):
    assert client.send("name", body.encode("latin-1"), 400)["error"]


def test_a_cluster_of_one_image_or_of_equal_ones_is_not_split(client):
    client.post("move", rows=[0, 3, 6], cluster=1)
    assert "two images" in client.post("split", status=400, cluster=0)["error"]
    client.post("move", rows=[1, 4, 7, 10], cluster=2)
    client.post("move", rows=[3], cluster=2)
    assert "alike" in client.post("split", status=400, cluster=1)["error"]


def test_a_body_that_is_too_large_or_has_no_length_is_refused(client):
    origin = f"http://{client.host}"
    head = (
        f"POST {client.root}name HTTP/1.1\r\nHost: {client.host}\r\nOrigin: {origin}\r\n"
        "Content-Type: application/json\r\n"
    )
    for line, status in (
        ("", b"411"),
        ("Content-Length: -1\r\n", b"411"),
        (f"Content-Length: {LARGEST_BODY + 1}\r\n", b"413"),
    ):
        with socket.create_connection(("127.0.0.1", client.server.server_port)) as connection:
            connection.sendall((head + line + "\r\n").encode())
            assert connection.makefile("rb").readline().split()[1] == status


def test_a_port_that_is_taken_is_said(client, labelling):
    with pytest.raises(UserError, match="choose another"):
        LabelServer(labelling, client.server.images, {}, client.server.server_port)
