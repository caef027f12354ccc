import pytest
from live_targets import ONE_OF, target, written

from bench.errors import UsageError
from bench.remote.target import load_target

JSON = '{"x": "$inputs"}'


@pytest.mark.parametrize("protocol", ONE_OF)
def test_a_target_of_each_protocol_loads(tmp_path, protocol):
    assert target(tmp_path, protocol).protocol == protocol


FAULTS = [
    ("oip", {"budgett": 5}, "there is no field 'budgett'; did you mean 'budget'"),
    ("oip", {"accounts": [{"name": "me", "key_en": "K"}]}, "accounts"),
    ("oip", {"url": None}, "the field url is missing"),
    ("oip", {"classes": ["a"]}, "at least 2 classes"),
    ("oip", {"classes": ["a", "b", "a"]}, "classes names 'a' twice"),
    ("oip", {"price_per_1000": 0}, "price_per_1000 = 0: it has to be greater than 0"),
    ("oip", {"budget": 0}, "budget = 0: it has to be greater than or equal to 1"),
    ("oip", {"money_cap": 0}, "money_cap = 0"),
    ("oip", {"batch": 0}, "batch = 0"),
    ("oip", {"batch": 1.5}, "batch = 1.5"),
    ("oip", {"rate": "600 a minute"}, "'600/minute'"),
    ("oip", {"rate": "0/minute"}, "'600/minute'"),
    ("oip", {"protocol": "grpc"}, "protocol = 'grpc': it has to be 'oip'"),
    ("oip", {"model": None}, "protocol 'oip' needs model, the name of the model"),
    ("tfserving", {"model": None}, "protocol 'tfserving' needs model"),
    ("json", {"request": None}, "protocol 'json' needs request"),
    ("json", {"output": None}, "protocol 'json' needs output, a JMESPath"),
    ("python", {"host": None}, "protocol 'python' needs host"),
    ("python", {"url": "model.py"}, "file.py:NAME"),
    ("python", {"accounts": [{"name": "me", "key_env": "K"}]}, "the function reads its own"),
    ("oip", {"request": JSON}, "protocol 'oip' does not use request; it belongs to 'json'"),
    ("mlflow", {"model": "m"}, "protocol 'mlflow' does not use model"),
    ("json", {"host": "localhost"}, "protocol 'json' does not use host"),
    ("oip", {"url": "ftp://127.0.0.1"}, "of http or https"),
    ("oip", {"url": "127.0.0.1:8080"}, "of http or https"),
    ("oip", {"url": "http://"}, "of http or https"),
    ("oip", {"url": "http://127.0.0.1:99999"}, "of http or https"),
    ("oip", {"url": "http://localhost/a b"}, "visible ASCII"),
    ("oip", {"url": "http://localhost#part"}, "after '#'"),
    ("oip", {"url": "http://localhost/v2/models/digits/infer"}, "leave out /v2/models"),
    ("tfserving", {"url": "http://localhost/v1/models/m:predict"}, "leave out /v1/models"),
    ("mlflow", {"url": "http://localhost?x=1"}, "no part after '?'"),
    ("oip", {"accounts": [{"name": "me"}, {"name": "me"}]}, "two have the same name"),
    ("oip", {"accounts": [{"name": " "}]}, "accounts.0.name: it has to be a text of one line"),
    ("oip", {"headers": {"Host": "other"}}, "Host is set by moatbench"),
    ("oip", {"headers": {"X-Team": "a\nb"}}, "characters that no header may have"),
    ("oip", {"key_header": "X Key"}, "key_header: it has to be the name of a header"),
    (
        "oip",
        {"idempotency_header": "Content-Length"},
        "idempotency_header: it has to be the name of a header",
    ),
    ("oip", {"positive": "a"}, "positive needs exactly 2 classes"),
    ("oip", {"classes": ["a", "b"], "positive": "d"}, "positive = 'd' is none of classes"),
    ("oip", {"answers": "labels", "scale": "percent"}, "labels have none"),
    ("oip", {"permission": {"who": "W", "until": "tomorrow", "reference": "r"}}, "permission.until"),
    ("oip", {"shape": [0]}, "shape.0 = 0"),
    ("oip", {"ca_file": "ca.pem"}, "ca_file is for an url of https"),
    ("oip", {"classes": "ab"}, "classes: it has to be a list"),
    ("oip", {"classes": [0, 1]}, "classes.0 = 0: it has to be a text"),
    ("oip", {"permission": True}, "permission = True: it has to be a table"),
    ("oip", {"timeout": 0}, "timeout = 0"),
    ("oip", {"detected_after": 1}, "detected_after = 1"),
]


@pytest.mark.parametrize(("protocol", "values", "sentence"), FAULTS)
def test_a_fault_is_one_sentence_that_names_the_field(tmp_path, protocol, values, sentence):
    path = written(tmp_path / "target.toml", {**ONE_OF[protocol], **values})
    with pytest.raises(UsageError) as caught:
        load_target(path)
    message = str(caught.value)
    assert sentence in message
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "pydantic" not in message


@pytest.mark.parametrize("text", ["url = ", "x = 'a\nb'", "[" * 2000, "a = 1" + "0" * 5000])
def test_what_is_no_toml_is_refused_in_one_sentence(tmp_path, text):
    path = tmp_path / "target.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"target\.toml: "):
        load_target(path)


def test_no_number_may_be_infinite(tmp_path):
    path = written(tmp_path / "target.toml", ONE_OF["oip"])
    path.write_text(path.read_text() + "money_cap = inf\n")
    with pytest.raises(UsageError, match="money_cap"):
        load_target(path)


@pytest.mark.parametrize(
    ("rate", "an_hour"),
    [("2/second", 7200), ("600/minute", 36_000), ("5/hour", 5), ("24/day", 1), (None, None)],
)
def test_a_rate_is_given_in_any_unit_of_time(tmp_path, rate, an_hour):
    assert target(tmp_path, rate=rate).rate_per_hour == an_hour
