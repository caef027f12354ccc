"""A made study: a small matrix with a [study] table, and records that nobody measured."""

import numpy as np

from bench.plan.matrix import load_matrix
from bench.plan.study_validation import validated
from bench.records import ClaimsRecord, Costs, Info, Record
from bench.run_facts import Meta

MATRIX = """
repeats = 5
detect = ["usps", "emnist-digits?"]

[[block]]
data = "mnist"
victim = "lenet"
splits = ["official", "disjoint"]
pool = "test"
attack = ["copycat(use_probability=true)", "copycat(use_probability=false)", "own_labels"]
defense = ["none", "label_only", ["rounded(decimals=1)", "mahalanobis(action=refuse)"]]
surrogate = "mlp128"
training = ["rule", "rule(loss=mse-log-softmax, epochs=10)"]
budget = 3000

[[block]]
data = "mnist"
victim = "lenet"
attack = ["membership_black_box(members=2000)", "membership_threshold(members=2000)"]
pool = ["in-distribution", "usps", "emnist-digits?"]
budget = 4000
"""

STUDY = """
[study]
title = "A made study"
source = "nobody, 2026"
choices = ["optimiser: not named, so Adam", "seed: not named, so ours"]
verdict = "published {mse-none.published} %, here {mse-none.interval}, by a tuned attack {soft-none} %"
meaning = "The defense left {mse-labels.published} % there and {mse-labels} % here; {drop} % of the theft."
headline = { published = "mse-none", competent = "soft-none" }

[[study.table]]
heading = "Extraction"
intro = "What the copy learnt."
[[study.table.row]]
id = "mse-none"
label = "MSE on log-softmax, no defense"
published = 89.66
metric = "extraction.fidelity"
confusion = true
[study.table.row.where]
attack = "copycat(use_probability=true)"
defense = "none"
training = "rule(epochs=10, loss=mse-log-softmax)"
splits = "official"
[[study.table.row]]
id = "mse-labels"
label = "MSE on log-softmax, labels only"
published = 67.44
metric = "extraction.fidelity"
confusion = true
[study.table.row.where]
attack = "copycat(use_probability=true)"
defense = "label_only"
training = "rule(loss=mse-log-softmax)"
splits = "official"
[[study.table.row]]
id = "soft-none"
label = "the rule, no defense"
metric = "extraction.accuracy"
[study.table.row.where]
attack = "copycat(use_probability=true)"
defense = ["none"]
training = "rule"
splits = "disjoint"
[[study.table.row]]
id = "drop"
label = "taken away by the defense"
published = 24.8
relative_drop = ["mse-none", "mse-labels"]
[[study.table.row]]
id = "points"
label = "points taken away by the defense"
difference = ["mse-none", "mse-labels"]
[[study.table.row]]
id = "f1"
label = "F1 of the copy"
published = 0.91
unit = ""
metric = "extraction.f1"
where = { attack = "copycat(use_probability=true)", defense = "none", training = "rule", splits = "official" }
[[study.table.row]]
id = "seconds"
label = "training"
published = 3.1
unit = "s"
metric = "seconds.train"
where = { attack = "copycat(use_probability=true)", defense = "none", training = "rule", splits = "official" }

[[study.table]]
heading = "Membership"
[[study.table.row]]
id = "other"
label = "non-members from another data set"
published = 69.27
metric = "membership.accuracy"
where = { attack = "membership_black_box", pool = ["emnist-digits", "usps"] }
[[study.table.row]]
id = "same"
label = "non-members from the same data"
metric = "membership.auc"
unit = ""
where = { attack = "membership_black_box", pool = "in-distribution" }

[[study.table]]
heading = "What the defense costs"
[[study.table.row]]
id = "honest"
label = "honest accuracy behind the stack"
metric = "honest.accuracy"
where = { defense = ["rounded(decimals=1)", "mahalanobis"], splits = "official" }
[[study.table.row]]
id = "caught"
label = "noise that is flagged"
metric = "detection.usps"
where = { defense = ["rounded", "mahalanobis"], splits = "official" }
"""

INPUTS = 400


def load(folder, text=MATRIX + STUDY, data_root=None):
    """Return a matrix and all of its tasks; no data set is here unless ``data_root`` has it."""
    path = folder / "made.toml"
    path.write_text(f'name = "made"\n{text}')
    matrix = load_matrix(str(path))
    return matrix, matrix.tasks(data_root=data_root or folder)


def study_of(folder, text=MATRIX + STUDY):
    matrix, tasks = load(folder, text)
    return validated(matrix, tasks)


def rng(*names):
    return np.random.default_rng([sum(map(ord, repr(name))) for name in names])


def extraction(spec):
    """A copy as good as its training and the defense let it be; repeats and inputs vary."""
    share = 0.94 if spec["training"] == "rule" else 0.89
    share -= 0.4 * ("label_only" in spec["defense"]) * (spec["training"] != "rule")
    hard = rng("inputs").random(INPUTS)
    luck = rng(spec["attack"], spec["repeat"]).normal(0, 0.05, INPUTS)
    agreement = (hard + luck < share + 0.004 * spec["repeat"]).astype(np.uint8)
    correct = agreement & (rng("wrong", spec["repeat"]).random(INPUTS) < 0.98)
    truth = rng("truth").integers(0, 10, INPUTS)
    said = np.where(agreement == 1, truth, rng("said", spec["repeat"]).integers(0, 10, INPUTS))
    confusion = np.zeros((10, 10), dtype=int)
    np.add.at(confusion, (truth, said), 1)
    seconds = {"train": 4.0 + spec["repeat"] / 10, "acquire": 0.1}
    return {
        "metrics": {
            "extraction.fidelity": float(agreement.mean()),
            "extraction.accuracy": float(correct.mean()),
            "extraction.f1": 0.9 + 0.01 * spec["repeat"],
        },
        "arrays": {"agreement": agreement, "correct": correct.astype(np.uint8)},
        "info": Info(confusion=confusion.tolist(), flags=["overlap"] if spec["splits"] == "official" else []),
        "costs": Costs(seconds=seconds, cpu_seconds=seconds),
    }


def membership(spec):
    """An attack that tells other data from the victim's, and finds nothing within the same."""
    lift = 0.0 if spec["pool"] == "in-distribution" else 0.2
    luck = 0.004 * (spec["repeat"] - 2)
    grid = np.geomspace(1e-4, 1, 41)
    metrics = {"accuracy": 0.5 + lift, "balanced_accuracy": 0.5 + lift, "auc": 0.5 + 1.2 * lift}
    metrics |= {"tpr_at_1": 0.01 + lift / 4, "train_accuracy": 1.0, "test_accuracy": 0.99, "gap": 0.01}
    metrics |= {"without_victim_accuracy": 0.5 + 2 * lift, "without_victim_auc": 0.5 + 2.4 * lift}
    metrics = {f"membership.{name}": value + luck for name, value in metrics.items()}
    metrics |= {"membership.fpr_at_1": 0.0098, "membership.tpr_at_0.1": None, "membership.records": 2000}
    return {
        "metrics": metrics,
        "info": Info(
            errors=dict.fromkeys(metrics, 0.011), roc=[[float(x), float(x ** (1 - 2 * lift))] for x in grid]
        ),
        "costs": Costs(seconds={"infer": 0.3}),
    }


def evaluation(spec):
    metrics = {"honest.accuracy": 0.951, "honest.top1_kept": 0.96, "honest.accuracy_lost": 0.01}
    gate = "mahalanobis" in str(spec["defense"])
    metrics |= {"honest.refused": 0.05, "honest.l1_mean": 0.1, "detection.usps": 0.97} if gate else {}
    intervals = {name: [value - 0.02, value + 0.01] for name, value in metrics.items()}
    claims = ClaimsRecord(may_flag=gate, may_refuse=gate)
    return {"metrics": metrics, "info": Info(intervals=intervals, claims=claims)}


def made(task, **fields):
    """Return the record of a task, as if it had run."""
    spec = task.spec()
    kind = (
        evaluation if task.kind == "audit" else membership if "membership" in spec["attack"] else extraction
    )
    return Record(f"{task.kind} {spec}", task, **({"status": "ok"} | kind(spec) | fields))


META = Meta.model_validate(
    {
        "matrix": "made",
        "command": "moatbench run made.toml",
        "commit": "0123456789abcdef",
        "versions": {"moatbench": "0.1.0"},
    }
)
