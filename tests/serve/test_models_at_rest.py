"""Models at rest: nothing but the model that is expected is decrypted, and nothing that was changed loads."""

import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.cli.main import app
from bench.errors import UsageError
from bench.models.model_files import load_model
from bench.models.pinned_model import Pin, pinned
from bench.serve import encrypted_model, manifests, signatures

KEY = bytes(range(32))


def encrypted(content=b"weights", version="2", name="digits", key=KEY):
    return encrypted_model.encrypt(content, name=name, version=version, suffix=".skops", key=key)


def decrypted(content, version="2", name="digits", key=KEY):
    return encrypted_model.decrypt(content, name=name, version=version, key=key, place="m.enc")


def test_a_model_comes_back_and_equal_ones_are_encrypted_differently():
    assert decrypted(encrypted()) == (".skops", b"weights")
    assert encrypted() != encrypted()
    assert b"weights" not in encrypted()


@pytest.mark.parametrize(
    "given",
    [{"version": "1"}, {"name": "other"}, {"key": bytes(32)}],
    ids=["an earlier version", "another model", "another key"],
)
def test_no_other_model_is_decrypted(given):
    with pytest.raises(UsageError, match="digits@2"):
        decrypted(encrypted(**given))


def test_a_file_that_claims_to_be_the_expected_version_is_not_decrypted():
    old = encrypted(version="1").replace(b'"version":"1"', b'"version":"2"')
    with pytest.raises(UsageError, match="another one, or the file was changed"):
        decrypted(old)


def test_any_changed_byte_and_any_shorter_file_is_refused():
    content = encrypted()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(UsageError):
            decrypted(bytes(changed))
        with pytest.raises(UsageError):
            decrypted(content[:place])


def test_errors_show_no_key(tmp_path):
    path = tmp_path / "key"
    signatures.write_secret(path, KEY.hex().encode()[:-1])
    for variable, file in (("MODEL_KEY", None), (None, path)):
        with pytest.raises(UsageError) as error:
            encrypted_model.read_key(variable, file, {"MODEL_KEY": KEY.hex() + "x"})
        assert KEY.hex()[:20] not in str(error.value)
    assert KEY.hex() not in repr(Pin(path, "digits", "1", KEY))


def test_a_key_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "key"
    signatures.write_secret(path, KEY.hex().encode())
    assert encrypted_model.read_key(None, path, {}) == KEY
    path.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        encrypted_model.read_key(None, path, {})


@pytest.fixture(scope="module")
def skops_model(tmp_path_factory):
    import skops.io
    from sklearn.linear_model import LogisticRegression

    x = np.random.RandomState(0).rand(60, 3).astype(np.float32)
    model = LogisticRegression().fit(x, (x[:, 0] > 0.5).astype(int))
    path = tmp_path_factory.mktemp("model") / "model.skops"
    skops.io.dump(model, path)
    return path


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_an_encrypted_model_answers_as_before_and_no_file_is_written_for_it(skops_model, tmp_path):
    key = tmp_path / "model.key"
    assert run("model", "keygen", key, "--encryption").exit_code == 0
    file = tmp_path / "model.enc"
    assert (
        run("model", "encrypt", skops_model, "--as", "m@1", "--out", file, "--key-file", key).exit_code == 0
    )
    x = np.random.RandomState(1).rand(50, 3)
    expected = load_model(str(skops_model)).predict(x)
    with pytest.raises(UsageError, match=r"\[model\]"):
        load_model(str(file))
    opened = []
    sys.addaudithook(lambda event, given: opened.append(given) if event == "open" and watching else None)
    watching = [True]
    with pinned(Pin(file, "m", "1", encrypted_model.read_key(None, key, {}))):
        model = load_model(str(file))
    watching.clear()
    assert (model.predict(x) == expected).all()
    writing = [name for name, mode, _ in opened if set(str(mode)) & set("wax+")]
    assert writing == []
    assert str(file) in [str(name) for name, *_ in opened]  # else the test sees nothing


@pytest.fixture
def signed(tmp_path):
    folder = tmp_path / "models"
    (folder / "part").mkdir(parents=True)
    (folder / "a.enc").write_bytes(b"a")
    (folder / "part" / "b.enc").write_bytes(b"b")
    run("model", "keygen", tmp_path / "signing.key")
    assert run("model", "sign", folder, "--key", tmp_path / "signing.key").exit_code == 0
    return folder


def verified(folder, public="signing.key.pub"):
    return run("model", "verify", folder, "--public-key", folder.parent / public)


def test_a_signed_folder_verifies(signed):
    result = verified(signed)
    assert (result.exit_code, "2 files are as they were signed" in result.output) == (0, True)


def other_key(folder):
    signatures.new_key_pair(folder.parent / "other.key")
    (folder.parent / "other.key.pub").replace(folder.parent / "signing.key.pub")


def signed_by_another(folder):
    signatures.new_key_pair(folder.parent / "other.key")
    run("model", "sign", folder, "--key", folder.parent / "other.key")


def changed_list(folder):
    path = folder / manifests.FILE
    path.write_text(path.read_text().replace('"bytes": 1', '"bytes": 2'))


BREAKS = {
    "a changed byte": lambda folder: (folder / "a.enc").write_bytes(b"x"),
    "an added file": lambda folder: (folder / "part" / "new").write_bytes(b""),
    "a missing file": lambda folder: (folder / "a.enc").unlink(),
    "two files exchanged": lambda folder: [
        (folder / "a.enc").write_bytes(b"b"),
        (folder / "part" / "b.enc").write_bytes(b"a"),
    ],
    "a link": lambda folder: [(folder / "a.enc").unlink(), (folder / "a.enc").symlink_to("part/b.enc")],
    "another key": other_key,
    "signed by another": signed_by_another,
    "a changed list": changed_list,
    "no list": lambda folder: (folder / manifests.FILE).unlink(),
}


@pytest.mark.parametrize("change", BREAKS.values(), ids=BREAKS.keys())
def test_a_folder_that_is_not_as_it_was_signed_is_broken(signed, change):
    change(signed)
    result = verified(signed)
    assert (result.exit_code, "broken" in result.output) == (1, True)


def test_a_pinned_model_in_a_changed_folder_is_not_read(signed):
    pin = Pin(signed / "a.enc", "m", "1", KEY, signed.parent / "signing.key.pub")
    (signed / "added").write_bytes(b"")
    with pinned(pin), pytest.raises(UsageError, match="added was added"):
        load_model(str(signed / "a.enc"))


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/x",
        "a/../x",
        "a//x",
        "C:/x",
        "a\\x",
        ".hidden",
        "a/.ssh",
        "nul",
        "con.txt",
        "x.",
        "",
        "é",
        "a\n",
    ],
)
def test_names_that_lead_elsewhere_are_not_safe(name):
    assert not manifests.is_safe(name)
    assert manifests.is_safe("state.sqlite")
    assert manifests.is_safe("models/digits-2.enc")


def test_a_key_is_never_overwritten(tmp_path):
    path = tmp_path / "k"
    assert run("model", "keygen", path).exit_code == 0
    before = path.read_bytes()
    assert isinstance(run("model", "keygen", path).exception, UsageError)
    assert path.read_bytes() == before
    assert Path(path).stat().st_mode & 0o077 == 0
