"""A guard with a detector of inputs, fitted on a file of benign ones."""

import csv
import re

import numpy as np
import pytest
from asgi_line import AsgiLine, Clock
from in_process import moatbench
from naive_servers import Server
from probing import a_target, probing
from served import served

from bench.cli.guarding import BenignFile, GuardPredictor, detector_line
from bench.data.sent_rows import from_the_wire, on_the_wire
from bench.data.user_data import load_data
from bench.errors import UsageError
from bench.models.benign_inputs import BenignInputs, fit_to_inputs
from bench.remote.exchange import Inputs
from bench.remote.probing.registry import chosen
from bench.remote.probing.run import run_probes
from bench.remote.target import Account, Target
from bench.serve import keys
from bench.serve.app import build_app
from bench.serve.controls import Controls
from bench.serve.secret_values import Secret
from bench.serve.state import State
from defenses.base import Batch, DefenseStack
from defenses.mahalanobis import Mahalanobis
from defenses.rounded import Rounded

DETECTOR = "mahalanobis(action=label_only,layers=input)"
PEPPER = "p" * 43
CONTROLS = Controls.model_validate(
    {
        "keys": {"pepper_env": "PEPPER"},
        "quota": {"inputs": 100_000, "rate": "100000/minute"},
        "suspension": {"flagged": 30},
    }
)


def usual(number=600, seed=0):
    """Inputs of four numbers in [0, 1] that are nearly equal to one another."""
    random = np.random.default_rng(seed)
    return (random.uniform(0.1, 0.9, (number, 1)) + random.normal(0, 0.01, (number, 4))).round(3)


def write(path, rows, header="abcd"):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture(scope="module")
def benign(tmp_path_factory):
    return write(tmp_path_factory.mktemp("benign") / "rows.csv", usual().tolist())


def guard(url, benign=None, defense=(), **changes):
    target = Target(
        url=url,
        protocol="oip",
        model="m",
        output="p",
        input="x",
        classes=("a", "b", "c"),
        retries=0,
        retry_unknown=0,
    )
    values = {"shape": (4,), "columns": (), "name": "m", "version": "1", "shows": "probabilities", **changes}
    return GuardPredictor(target, defense, **values, benign=benign and BenignFile(benign))


@pytest.mark.parametrize(("defense", "result"), [((DETECTOR,), "holds"), ((), "does not hold")])
def test_the_probe_of_detection_holds_behind_a_guard_with_a_detector_alone(defense, result, benign, tmp_path):
    clock = Clock()
    upstream = Server("open", clock=clock, limit=10**9)
    with served(upstream) as port, State(tmp_path / "state.sqlite", clock=clock) as state:
        predictor = guard(f"http://127.0.0.1:{port}", benign if defense else None, defense)(state)
        with state.transaction() as connection:
            key = keys.add(connection, Secret(PEPPER.encode()), "ann", "client", now=clock(), by="admin")
        app = build_app(predictor, CONTROLS, state, environ={"PEPPER": PEPPER})
        line = AsgiLine(app)
        target = a_target(
            stated_rate=None,
            detected_after=30,
            output="probabilities",
            accounts=(Account(name="ann", key_env="ANN"),),
        )
        source = usual(200, seed=1)
        inputs = Inputs(source.astype(np.float32), source)
        with probing(line, clock, target=target, environ={"ANN": key}, inputs=inputs) as opened:
            (found,) = run_probes(chosen(["detection"]), opened.context, opened.ledger, most=1000).findings
        line.close()
        predictor.close()
    assert found.verdict.result == result, found.verdict
    if defense:  # 30 flagged inputs suspend the account, of which one or more were ordinary ones
        number = int(re.match(r"Input (\d+) of the series .*\(403\)", found.verdict.evidence[0])[1])
        assert 28 <= number <= 31


def test_benign_inputs_that_were_held_out_and_new_ones_are_flagged_about_as_often_as_the_detector_aims_at(
    benign,
):
    data = BenignInputs(load_data(benign))
    detector = Mahalanobis(layers="input", fpr=0.1)
    share = fit_to_inputs(DefenseStack((detector,)), data, classes=3)
    assert 0.03 <= share <= 0.1
    assert (
        share == guard("http://127.0.0.1:1", benign, ("mahalanobis(layers=input,fpr=0.1)",)).flagged_share()
    )

    def flagged(rows):
        x = data.encoded(rows)
        given = np.full((len(x), 3), 1 / 3)
        return detector.judge(Batch(inputs=x, raw=given, probabilities=given)).mean()

    assert flagged(usual(1000, seed=2)) < 0.15
    assert flagged(np.random.default_rng(3).random((300, 4))) > 0.9


def test_thresholds_are_set_on_inputs_that_no_equal_one_was_learned_from(tmp_path):
    data = BenignInputs(load_data(write(tmp_path / "again.csv", np.repeat(usual(60), 4, axis=0))))
    found = data.calibration(classes=2)
    assert len(found.inputs) + len(found.train_inputs) == 240
    assert len(found.inputs) == 80
    learned = {row.tobytes() for row in found.train_inputs}
    assert not any(row.tobytes() in learned for row in found.inputs)
    assert (found.probabilities == 0.5).all()


# What is sent, and what it is compared with.


MIXED = [[0.5 + place / 500, ["red", "blue"][place % 2], place % 3 == 0, place % 7] for place in range(150)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    rows = [[*row[:3], "" if place % 10 == 9 else row[3]] for place, row in enumerate(MIXED)]
    return load_data(
        write(tmp_path_factory.mktemp("mixed") / "m.csv", rows, ["size", "colour", "new", "age"])
    )


def test_rows_of_a_table_come_back_as_they_were(mixed):
    sent = on_the_wire(mixed, mixed.x).rows
    assert sent[0] == [0.5, "red", True, 0]
    assert sent[9][3] is None
    np.testing.assert_array_equal(from_the_wire(mixed, sent), mixed.x)


@pytest.mark.parametrize(
    "row",
    [
        [0.5, "green", True, 1],
        [0.5, None, True, 1],
        [0.5, True, True, 1],
        ["0.5", "red", True, 1],
        [None, "red", True, 1],
        [10**400, "red", True, 1],
        [1e39, "red", True, 1],
        [0.5, "red", 7, 1],
    ],
)
def test_a_row_that_the_data_could_not_hold_is_far_from_all(row, mixed):
    (x,) = from_the_wire(mixed, [row])
    assert np.isinf(x[0])
    assert np.isnan(x[1])
    detector = Mahalanobis(layers="input")
    fit_to_inputs(DefenseStack((detector,)), BenignInputs(mixed), classes=2)
    given = np.full((1, 2), 0.5)
    assert detector.judge(Batch(inputs=x[None], raw=given, probabilities=given)).all()


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3), (3, 5, 6)])
@pytest.mark.parametrize("bytes_", [True, False])
def test_images_come_back_as_they_were(shape, bytes_, tmp_path):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (120, *shape)).astype(np.uint8) if bytes_ else random.random((120, *shape))
    np.savez(tmp_path / "i.npz", x=x)
    data = load_data(tmp_path / "i.npz")
    np.testing.assert_array_equal(from_the_wire(data, np.asarray(on_the_wire(data, data.x).rows)), data.x)
    BenignInputs.of(data, shape=shape, columns=(), file="i.npz")


# What cannot be used.


def test_columns_are_put_into_the_order_of_the_guard_s(mixed):
    found = BenignInputs.of(mixed, shape=(2,), columns=("colour", "size"), file="m.csv")
    assert found.encoded([["blue", 0.25]]).tolist() == [[found.data.table[0].values.index("blue"), 0.25]]
    with pytest.raises(UsageError, match="expects a column 'weight'"):
        BenignInputs.of(mixed, shape=(1,), columns=("weight",), file="m.csv")


@pytest.mark.parametrize(
    ("defense", "benign_too", "words"),
    [
        ((DETECTOR,), False, "name a file of them by --benign"),
        ((), True, "--benign is for a detector"),
        (("rounded(decimals=2)",), True, "--benign is for a detector"),
        (("mahalanobis",), True, "needs the model and its data"),
        (("dawn",), True, "needs the model and its data"),
    ],
)
def test_a_detector_and_its_inputs_belong_together(defense, benign_too, words, benign):
    with pytest.raises(UsageError, match=words):
        guard("http://127.0.0.1:1", benign if benign_too else None, defense).flagged_share()


def test_inputs_of_another_shape_are_refused(benign):
    with pytest.raises(UsageError, match="has the shape 4, and --shape states another"):
        guard("http://127.0.0.1:1", benign, (DETECTOR,), shape=(5,)).flagged_share()


def test_the_command_says_what_is_wrong_before_anything_listens(benign, tmp_path):
    start = ("guard", "--upstream", "http://127.0.0.1:1", "--classes", "3", "--shape", "4", "--model", "m")
    for words, fault in (
        (("--label", "y"), "need --benign FILE"),
        (("--benign", benign), "add one by --defense"),
        (("--defense", DETECTOR), "name a file of them by --benign"),
        (("--defense", DETECTOR, "--benign", "none.csv"), "none.csv"),
        (("--defense", DETECTOR, "--benign", benign, "--range", "1"), "write LOW,HIGH"),
    ):
        code, said = moatbench(tmp_path, *start, *words)
        assert code == 2, said
        assert fault in said
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("share", "after", "words"),
    [
        (0.01, 40, "1.0% of the .* are flagged; so a benign account is suspended after about 4,000 inputs"),
        (0.0, 40, "0.0% .* are flagged$"),
        (0.01, None, "1.0% .* are flagged$"),
    ],
)
def test_the_owner_is_told_when_benign_accounts_will_be_suspended(share, after, words):
    assert re.search(words, detector_line(share, after))


def test_other_defenses_need_no_inputs():
    assert fit_to_inputs(DefenseStack((Rounded(),)), None, 3) is None
