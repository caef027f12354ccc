"""Recommendations that nobody concluded from a run, for pages, terminal and exports."""

from bench.analysis.threat_models import UNDEFENDED, VictimThreatModel
from bench.analysis.verdicts import (
    Criterion,
    DefenseVerdict,
    Recommendation,
    Reduction,
    VictimRecommendations,
)
from bench.metrics.intervals import Interval
from bench.run_facts import ReportOptions

VICTIM = "digits/mlp"
TOP_1, NOISE, LABEL_ONLY = ("top_k(k=1)",), ("output_noise(l1=0.3)",), ("label_only",)
LARGE_NOISE, DETECTOR, PLUGIN, BROKEN = (
    ("gaussian_noise(l1=1.7)",),
    ("mahalanobis(action=refuse, fpr=0.05, space=deep)",),
    ("<script>alert(1)</script>",),
    ("rounded(decimals=1)",),
)


def threat(access="in-distribution", knowledge="full", victim=VICTIM, pool=None):
    return VictimThreatModel(pool or access, access, knowledge, "mlp", "probabilities", victim)


def interval(value, half=0.01):
    return Interval(value, value - half, value + half)


def criteria(**changed):
    """All criteria, affordable; those named are given instead, blanks for underscores."""
    zero, own = Interval(0.0, 0.0, 0.0), {name.replace("_", " "): each for name, each in changed.items()}
    limits = {"accuracy": 0.01, "balanced accuracy": 0.01, "rejected": 0.01, "ranking": 0.01}
    limits |= {"brier": 0.02, "changed": 0.02}
    found = {name: Criterion(name, "affordable", zero, limit) for name, limit in limits.items()}
    shortfall = Interval(-0.002, -0.01, 0.006)
    found["adaptive"] = Criterion(
        "adaptive",
        "affordable",
        shortfall,
        0.01,
        detail="auto adapts, active_thief is the best that does not",
    )
    found |= {name: Criterion(name, "affordable") for name in ("confidence", "valid")}
    return tuple((found | own).values())


def reduction(value, half=0.01, *, undefended=0.979, attack="auto", repeats=20, fresh=True):
    return Reduction(
        undefended=undefended,
        undefended_attack="active_thief on probabilities",
        defended=undefended - value,
        attack=attack,
        interval=interval(value, half),
        repeats=repeats,
        attacks=7,
        fresh=fresh,
    )


def verdict(defense, conclusion, value, *changed, fresh=False, largest=None, ways=None):
    """A verdict; ``changed``: the criteria that fail."""
    own = criteria(**{each.name.replace(" ", "_"): each for each in changed})
    return DefenseVerdict(
        defense=defense,
        conclusion=conclusion,
        criteria=own,
        failed=changed,
        eligible_for=ways if ways is not None else () if changed else ("labels", "ranking", "probabilities"),
        reduction=reduction(value, fresh=fresh, repeats=20 if fresh else 5),
        largest=largest,
    )


def rows(*, confirmed=True):
    """A row for every conclusion but "tied"; ``confirmed=False``: of a run without a confirmation run."""
    labels_alone = Criterion("confidence", "too dear", detail="answers have no confidence")
    dear = Criterion("accuracy", "too dear", Interval(0.803, 0.78, 0.82), 0.01)
    unclear = Criterion(
        "accuracy", "not shown", Interval(0.002, -0.006, 0.012), 0.01, 700, "too few test inputs to tell"
    )
    missing = Criterion(
        "balanced accuracy",
        "not shown",
        None,
        0.01,
        detail="not measured by the version that made this store: run again",
    )
    unmet = Criterion(
        "adaptive",
        "too dear",
        None,
        0.01,
        detail="not evaluated against an adaptive attacker: auto does nothing else when told of the defense",
    )
    failed = Criterion("valid", "too dear", detail="2 cells failed")
    smaller = reduction(0.012, 0.02, undefended=0.991, repeats=5, fresh=False)
    return (
        DefenseVerdict(UNDEFENDED, "undefended"),
        verdict(TOP_1, "recommended" if confirmed else "candidate", 0.028, fresh=confirmed, largest=smaller),
        verdict(NOISE, "confirmed" if confirmed else "candidate", 0.017, fresh=confirmed),
        verdict(("top_k(k=3)",), "not confirmed" if confirmed else "candidate", 0.004, fresh=confirmed),
        verdict(("top_k(k=5)",), "eligible", 0.001),
        verdict(("top_k(k=2)",), "not shown", 0.02, unclear, missing),
        verdict(PLUGIN, "no adaptive attacker", 0.309, unmet),
        verdict(LABEL_ONLY, "not usable", 0.055, labels_alone, fresh=confirmed, ways=("labels",)),
        verdict(LARGE_NOISE, "not usable", 0.824, dear),
        verdict(BROKEN, "invalid", 0.05, failed),
    )


def recommendation(model=None, *, confirmed=True, verdicts=None, **fields):
    """A recommendation; ``fields``: others than the usual ones."""
    own = rows(confirmed=confirmed) if verdicts is None else verdicts
    values = {
        "threat": model or threat(),
        "budget": 200,
        "options": ReportOptions(),
        "rows": own,
        "undefended": interval(0.979, 0.006),
        "undefended_attack": "active_thief on probabilities",
        "attacks": 7,
        "adaptive": 4,
        "compared": len(own) - 1,
        "selection_repeats": 5,
        "fresh_repeats": 20 if confirmed else 0,
        "smallest": 0.021,
        "others": (("labels", LABEL_ONLY if confirmed else None), ("ranking", TOP_1 if confirmed else None)),
        "holds_at_largest": False if confirmed else None,
    }
    return Recommendation(**(values | fields))


def nothing_helps(**fields):
    """A confirmed recommendation of nothing: fresh repeats show no reduction."""
    verdicts = (
        DefenseVerdict(UNDEFENDED, "undefended"),
        verdict(TOP_1, "not confirmed", 0.002, fresh=True),
        verdict(LARGE_NOISE, "not usable", 0.824, Criterion("accuracy", "too dear", interval(0.8), 0.01)),
    )
    others = (("labels", None), ("ranking", None))
    return recommendation(verdicts=verdicts, others=others, holds_at_largest=None, **fields)


def answers(victim=VICTIM, **fields):
    """The answers for one victim under three threat models."""
    return VictimRecommendations(
        victim,
        recommendation(threat(victim=victim), **fields),
        recommendation(threat("none", victim=victim, pool="noise"), confirmed=False),
        recommendation(threat(knowledge="none", victim=victim), confirmed=False),
    )
