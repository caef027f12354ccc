"""``controls.toml``: what a newcomer may mistype is said in the file's own words."""

import pytest

from bench.errors import UsageError
from bench.serve.controls import load_controls

JWT = '[jwt]\nalgorithm = "HS256"\naudience = "a"\nkey_env = "KEY"\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[quota]\ninputs = "unlimted"', "quota.inputs: it has to be a number from 1, or 'unlimited'"),
        ("[quota]\ninputs = true", "quota.inputs = True: it has to be a number from 1, or 'unlimited'"),
        ("[quota]\ninputs = 0", "quota.inputs = 0: it has to be a number from 1, or 'unlimited'"),
        ("keys = false", "keys = False: it has to be a table"),
        (
            JWT + "[keys]\non = false",
            "[jwt] needs keys: without them anybody may ask; leave on = false out of [keys]",
        ),
        ("[quotta]\ninputs = 5", "there is no field 'quotta'; did you mean 'quota'?"),
    ],
)
def test_a_mistake_is_one_sentence(text, fault, tmp_path):
    path = tmp_path / "controls.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        load_controls(path)
    assert str(error.value) == f"{path}: {fault}"


def test_a_quota_may_be_unlimited(tmp_path):
    path = tmp_path / "controls.toml"
    path.write_text('[quota]\ninputs = "unlimited"\nrate = "unlimited"')
    quota = load_controls(path).quota
    assert (quota.cap, quota.window) == (None, None)
