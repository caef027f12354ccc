import sys

import pytest

from bench.cli import main, serving
from bench.errors import UsageError
from bench.serve.controls import Controls


@pytest.fixture
def moatbench(monkeypatch, capsys, tmp_path):
    """Run a command in this process, in an empty folder, until it would serve; return code, output, error."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["moatbench", *map(str, words)])
        code = 0
        try:
            main.main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return int(code), said.out, said.err

    return call


GUARD = ("guard", "--upstream", "http://127.0.0.1:9", "--model", "m", "--classes", "3", "--shape", "4")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("serve", "digit/mlp"), "digits"),
        (("serve", "digits/mlpp"), "there is no victim 'mlpp'; did you mean 'mlp'"),
        (("serve", "digits"), "write DATA/NAME, as digits/mlp, or add --data"),
        (("serve", "digits/mlp", "--defense", "round"), "did you mean"),
        (("serve", "digits/mlp", "--name", "a/b"), "--name 'a/b'"),
        (("serve", "digits/mlp", "--certificate", "a.crt"), "--certificate and --key belong together"),
        (("serve", "digits/mlp", "--host", "0.0.0.0"), "add --certificate and --key"),  # noqa: S104
        (("serve", "digits/mlp", "--controls", "none.toml"), "no controls file none.toml"),
        (("serve", "digits/mlp"), "run moatbench keys init --state results/serve NAME"),
        ((*GUARD,), "run moatbench keys init --state results/serve NAME"),
        ((*GUARD, "--classes", "x"), "--classes 'x': names with commas between, or a number from 2"),
        ((*GUARD, "--classes", "a,a"), "twice"),
        ((*GUARD, "--shape", "4,x"), "--shape has to be the axes of one input"),
        ((*GUARD, "--columns", "a,b"), "--columns are names with commas between"),
        ((*GUARD, "--upstream", "ftp://x"), "url has to be an address"),
        ((*GUARD, "--key-env", "mb_secret-value"), "the name of an environment variable"),
        ((*GUARD, "--key-env", "NOT_SET_HERE"), "is not set"),
        ((*GUARD, "--defense", "nonesuch"), "nonesuch"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_said_in_one_sentence(words, sentence, moatbench, tmp_path):
    code, out, err = moatbench(*words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert "mb_secret-value" not in err
    assert "Traceback" not in err
    assert not (tmp_path / "results").exists()


def test_a_controls_file_with_a_typo_names_the_field(moatbench, tmp_path):
    (tmp_path / "controls.toml").write_text("[quota]\ninputz = 5\n")
    code, _, err = moatbench("serve", "digits/mlp", "--controls", "controls.toml")
    assert code == 2
    assert "inputs" in err
    assert not (tmp_path / "results").exists()


def test_an_address_that_others_reach_needs_keys_too():
    request = serving.Request(state=None, host="192.0.2.1")
    with pytest.raises(UsageError, match="switch keys on"):
        serving._check_address(request, tls=True, keys=False)
    serving._check_address(request, tls=True, keys=True)
    serving._check_address(serving.Request(state=None), tls=False, keys=False)


def test_the_administration_needs_keys(tmp_path):
    controls = Controls.model_validate({"admin": {"port": 0}, "keys": {"on": False}})
    with pytest.raises(UsageError, match=r"\[admin\] needs keys"):
        serving._administration(controls, tmp_path, tmp_path)


def test_the_help_of_serve_is_that_of_the_server_and_log_is_still_there(moatbench):
    code, out, _ = moatbench("serve", "--help")
    assert code == 0
    assert "VICTIM" in out
    code, out, _ = moatbench("serve", "log", "--help")
    assert code == 0
    assert "verify" in out
