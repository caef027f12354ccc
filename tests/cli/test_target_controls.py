"""``moatbench target controls``: what it prints and writes, and how it ends."""

import json
import time

import pytest
from in_process import moatbench
from naive_servers import Server
from served import served

FILE = """\
# A target of a test.
protocol = "oip"
url = "http://127.0.0.1:{port}"
model = "m"
output = "p"
input = "x"
shape = [4]
classes = ["a", "b", "c"]
accounts = [{{name = "ann", key_env = "KEY_OF_ANN"}}]
"""
QUICK = "authentication,error-leaks,other-doors"


@pytest.fixture
def serving(tmp_path, monkeypatch):
    """Start servers with faults, write the target file, and return the folder."""
    monkeypatch.setenv("KEY_OF_ANN", "key-of-ann")
    open_servers = []

    def start(*faults, more="", **settings):
        app = Server(*faults, clock=time.time, **{"limit": 1000, **settings})
        server = served(app)
        port = server.__enter__()
        open_servers.append(server)
        (tmp_path / "digits.toml").write_text(FILE.format(port=port) + more)
        return tmp_path

    yield start
    for server in open_servers:
        server.__exit__(None, None, None)


def controls(folder, *words):
    return moatbench(folder, "target", "controls", "digits.toml", *words)


def test_controls_that_hold_end_with_0_and_three_files(serving):
    folder = serving()
    code, said = controls(folder, "--only", QUICK)
    assert code == 0, said
    assert "3 probes of http://127.0.0.1:" in said
    assert "(loopback): at most 35 inputs" in said
    assert "other-doors        holds" in said
    results = folder / "results" / "digits"
    assert {path.name for path in results.iterdir()} >= {"controls.md", "controls.json", "controls.sarif"}
    log = json.loads((results / "controls.sarif").read_text())
    assert log["runs"][0]["results"] == []
    assert "key-of-ann" not in said + "".join(
        path.read_bytes().decode("latin-1") for path in results.iterdir() if path.is_file()
    )


def test_a_control_that_does_not_hold_ends_with_1_at_the_line_of_the_url(serving):
    folder = serving("open")
    code, said = controls(folder, "--only", "authentication", "--out", "there")
    assert code == 1, said
    assert "2 Access control           does not hold" in said
    assert "1 Encryption               cannot be tested from outside" in said
    log = json.loads((folder / "there" / "controls.sarif").read_text())
    (result,) = log["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": "digits.toml"}, "region": {"startLine": 3}}


def test_a_second_run_books_anew_and_says_so(serving):
    folder = serving("open")
    controls(folder, "--only", "authentication")
    _, said = controls(folder, "--only", "authentication")
    assert "inputs were booked by earlier probes of this target; this run books anew" in said


def test_a_run_that_stops_early_ends_with_3(serving):
    folder = serving()
    code, said = controls(folder, "--only", "authentication,rate-unit", "--limit", "20")
    assert code == 3, said
    assert "at most 20 inputs" in said
    assert "the run ended early: probe rate-unit needs" in said
    assert json.loads((folder / "results/digits/controls.json").read_text())["stopped"]


def test_a_run_that_could_test_nothing_ends_with_3(serving):
    folder = serving()
    code, said = controls(folder, "--only", "watermark,second-factor")
    assert code == 3, said
    assert "no probe of this run could test anything" in said
    assert "the run ended early" not in said
    assert json.loads((folder / "results/digits/controls.json").read_text())["stopped"] == ""


def test_one_control_that_holds_is_enough_for_0_whatever_could_not_be_tested(serving):
    code, said = controls(serving(), "--only", "error-leaks,watermark")
    assert code == 0, said
    assert "1 holds, 1 cannot be tested" in said


def test_a_run_that_found_something_and_stops_early_ends_with_1_and_says_both(serving):
    folder = serving("open")
    code, said = controls(folder, "--only", "authentication,rate-unit", "--limit", "20")
    assert code == 1, said
    assert "the run ended early: probe rate-unit needs" in said


@pytest.mark.parametrize(
    ("words", "more", "fault"),
    [
        (["--only", "authenticate"], "", "did you mean 'authentication'"),
        (["--only", ","], "", "there is no probe ''"),
        (["--second-account", "ben"], "", "no account 'ben'"),
        (["--second-account", "ann"], "", "is the first account"),
        (["--label", "y"], "", "name them by --data FILE"),
        (["--limit", "0"], "", "greater than or equal to 1"),
        ([], "budget = 40\n", "budget of 40"),
        ([], 'stated_rate = "often"\n', "stated_rate has to be a number and a time"),
        ([], "stated_rat = 3\n", "did you mean 'stated_rate'"),
        (
            [],
            'second_factor = {url = "http://x.example", secret_env = "A", header = "C"}\n',
            "on the host of",
        ),
        ([], 'second_factor = {url = "http://127.0.0.1", secret_env = "A"}\n', "needs header or body"),
        ([], 'token_key_env = "NOT_SET"\n', "token_key_env names is not set"),
    ],
)
def test_what_cannot_be_probed_ends_with_2_and_nothing_is_sent(words, more, fault, serving):
    folder = serving(more=more)
    code, said = controls(folder, *words)
    assert code == 2, said
    assert fault in " ".join(said.replace("│", " ").split())
    assert not (folder / "results" / "digits" / "controls.md").exists()


def test_a_target_that_is_not_there_ends_with_2(serving):
    folder = serving()
    text = (folder / "digits.toml").read_text()
    (folder / "digits.toml").write_text(text.replace(text.split("127.0.0.1:")[1].split('"')[0], "1"))
    code, said = controls(folder, "--only", "authentication")
    assert code == 2, said
    assert "takes no connection" in said


def test_the_shape_comes_from_the_file_or_the_data_or_it_is_asked_for(serving):
    folder = serving()
    file = folder / "digits.toml"
    file.write_text(file.read_text().replace("shape = [4]\n", ""))
    code, said = controls(folder, "--only", "error-leaks")
    assert code == 2
    assert "nothing says what an input is" in said
    rows = "a,b,c,d,y\n" + "".join(f"{k / 150},{k / 300},0.5,{k / 200},{'ab'[k % 2]}\n" for k in range(150))
    (folder / "rows.csv").write_text(rows)
    code, said = controls(folder, "--only", "error-leaks", "--data", "rows.csv", "--label", "y")
    assert code == 0, said
    assert (folder / "results/digits/controls.md").exists()
