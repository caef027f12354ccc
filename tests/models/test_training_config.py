import pytest

from bench.errors import UsageError
from bench.models.training_config import TrainingConfig, parse_training

LARGE, SMALL = (1, 28, 28), (1, 8, 8)


def test_the_default_configuration_is_spelled_as_one_word():
    assert repr(parse_training("rule")) == repr(parse_training("rule(decay=true, epochs=None)")) == "rule"


@pytest.mark.parametrize(
    "text",
    [
        "rule(loss=mse-log-softmax, constant=0.001)",
        "rule(learning_rate=0.0005, epochs=30, batch_size=512, decay=false)",
        "rule(mean=0.1307, std=0.3081)",
        "rule(unlabelled=fixmatch)",
        "rule(augment=weak)",
        "rule(epochs=3, unlabelled=pseudo-labels, augment=weak)",
    ],
)
def test_changed_parameters_are_spelled_and_read_again(text):
    assert repr(parse_training(text)) == text
    assert vars(parse_training(repr(parse_training(text)))) == vars(parse_training(text))


def test_a_constant_means_nothing_to_cross_entropy():
    assert repr(parse_training("rule(constant=0.5)")) == "rule"


def test_epochs_are_passes_over_the_transfer_set():
    assert parse_training("rule(epochs=10)").schedule("mlp", LARGE, 3_000).steps == 470
    assert parse_training("rule(epochs=10, batch_size=512)").schedule("mlp", SMALL, 3_000).steps == 60


def test_a_schedule_has_the_configured_values():
    schedule = parse_training(
        "rule(loss=mse-log-softmax, constant=0.001, learning_rate=0.01, decay=false)"
    ).schedule("mlp", LARGE, 100)
    assert (schedule.loss, schedule.constant, schedule.learning_rate, schedule.decay) == (
        *("mse-log-softmax", 0.001, 0.01, False),
    )


def test_a_linear_model_takes_larger_steps_by_default():
    assert TrainingConfig().schedule("logistic", SMALL, 10).learning_rate == 1e-2
    assert parse_training("rule(learning_rate=0.005)").schedule("logistic", SMALL, 10).learning_rate == 0.005


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rule(loss=mse)", "cross-entropy, mse-log-softmax"),
        ("rule(epochs=0)", r"epochs=0; integer in \[1, 1000000\]"),
        ("rule(batch_size=9223372036854775807)", r"batch_size=.*; integer in \[1, 1000000\]"),
        ("rule(std=1e-300)", r"std=1e-300; number in \[1e-06, 1\]"),
        ("rule(learning_rate=-1.0)", r"learning_rate=-1.0; number in \(0, 1\]"),
        ("rule(constant=0.0, loss=mse-log-softmax)", r"constant=0.0; number in \(0, 1\]"),
        ("rule(unlabelled=flexmatch)", "unused, pseudo-labels, fixmatch, mixmatch, rotation"),
        ("rule(augment=strong)", "none, weak"),
        ("rule(unlabelled=fixmatch, loss=mse-log-softmax)", "fixmatch has losses of its own"),
        ("rule(epoch=3)", "did you mean 'epochs'"),
        ("sgd", "unknown training 'sgd'"),
    ],
)
def test_an_invalid_configuration_names_key_and_range(text, said):
    with pytest.raises(UsageError, match=said):
        parse_training(text)


@pytest.mark.parametrize(
    ("text", "method", "semi_supervised", "supervised"),
    [
        ("rule", "", False, "rule"),
        ("rule(augment=weak)", "weak", False, "rule(augment=weak)"),
        ("rule(unlabelled=pseudo-labels)", "", True, "rule"),
        ("rule(unlabelled=pseudo-labels, augment=weak)", "weak", True, "rule(augment=weak)"),
        *(
            (f"rule(unlabelled={name}, epochs=3)", name, True, "rule(epochs=3, augment=weak)")
            for name in ("fixmatch", "mixmatch", "rotation")
        ),
    ],
)
def test_without_unlabelled_inputs_a_training_is_its_control(text, method, semi_supervised, supervised):
    config = parse_training(text)
    assert (config.method, config.semi_supervised, config.supervised()) == (
        method,
        semi_supervised,
        supervised,
    )


def test_weak_views_belong_to_the_trainings_on_views():
    assert repr(parse_training("rule(unlabelled=fixmatch, augment=weak)")) == "rule(unlabelled=fixmatch)"
    assert repr(parse_training("rule(unlabelled=fixmatch, augment=none)")) == "rule(unlabelled=fixmatch)"
