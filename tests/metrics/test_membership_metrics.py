"""The metrics of membership inference against scikit-learn, cases counted by hand, and simulation."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score, roc_curve

from bench.metrics import membership
from bench.metrics.membership import RocCurve

MEMBER = np.array([True, True, True, False, False])
SCORE = np.array([0.9, 0.6, 0.2, 0.6, 0.1])


def drawn(seed, members=300, others=200, shift=1.0, levels=None):
    """Return normal evidence squeezed into [0, 1], members ``shift`` higher; ``levels``: so many values."""
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.repeat([True, False], [members, others]))
    score = 1 / (1 + np.exp(-rng.normal(shift * member - shift / 2)))
    return member, np.floor(score * levels) / levels if levels else score


RANKINGS = [drawn(seed, levels=levels) for seed in range(3) for levels in (None, 20, 3)]


class TestMembership:
    def test_it_has_these_metrics(self):
        names = ("accuracy", "balanced_accuracy", "auc", "tpr_at_1", "fpr_at_1", "tpr_at_0.1", "fpr_at_0.1")
        assert set(membership.membership(MEMBER, SCORE)) == {f"membership.{name}" for name in names}

    def test_shares_are_counted_by_hand(self):
        # Members: .9 and .6 said, .2 not. Others: .6 said, .1 not. Pairs won: 2, 1 and a half, 1.
        found = membership.membership(MEMBER, SCORE)
        assert found["membership.accuracy"] == pytest.approx(3 / 5)
        assert found["membership.balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
        assert found["membership.auc"] == pytest.approx(4.5 / 6)
        assert found["membership.tpr_at_1"] == pytest.approx(1 / 3)
        assert found["membership.fpr_at_1"] == 0

    @pytest.mark.parametrize(("member", "score"), RANKINGS)
    def test_they_are_scikit_learns(self, member, score):
        found = membership.membership(member, score)
        assert found["membership.accuracy"] == pytest.approx(accuracy_score(member, score > 0.5))
        assert found["membership.balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(member, score > 0.5)
        )
        assert found["membership.auc"] == pytest.approx(roc_auc_score(member, score))

    def test_true_positives_are_those_at_one_in_a_hundred_and_one_in_a_thousand(self):
        member, score = drawn(0, 500, 2_000, 3.0)
        found = membership.membership(member, score)
        for name, target in (("1", 0.01), ("0.1", 0.001)):
            point = (found[f"membership.fpr_at_{name}"], found[f"membership.tpr_at_{name}"])
            assert point == RocCurve.of(member, score).at(target)
            assert point[0] == target

    def test_a_score_of_a_half_says_no_member(self):
        found = membership.membership(MEMBER, np.full(5, 0.5))
        assert found["membership.accuracy"] == pytest.approx(2 / 5)
        assert found["membership.auc"] == 0.5

    def test_one_of_a_thousand_means_nothing_with_fewer_than_a_thousand(self):
        for others, measured in ((999, False), (1_000, True)):
            member, score = drawn(0, 50, others)
            found, errors = membership.membership(member, score), membership.standard_errors(member, score)
            for name in ("membership.tpr_at_0.1", "membership.fpr_at_0.1"):
                assert (found[name] is not None) == measured
            assert (errors["membership.tpr_at_0.1"] is not None) == measured


class TestCurve:
    @pytest.mark.parametrize(("member", "score"), RANKINGS)
    def test_its_points_are_scikit_learns(self, member, score):
        fpr, tpr, _ = roc_curve(member, score, drop_intermediate=False)
        curve = RocCurve.of(member, score)
        assert curve.false / curve.non_members == pytest.approx(fpr)
        assert curve.true / curve.members == pytest.approx(tpr)

    @pytest.mark.parametrize(("member", "score"), RANKINGS)
    def test_the_achieved_rate_is_never_above_the_target_and_no_other_is_nearer(self, member, score):
        fpr, tpr, _ = roc_curve(member, score, drop_intermediate=False)
        for target in (0, 1e-3, 0.01, 0.03, 0.5, 1):
            achieved, found = RocCurve.of(member, score).at(target)
            assert achieved <= target
            assert achieved == fpr[fpr <= target].max()
            assert found == tpr[fpr <= target].max()

    def test_a_rate_that_is_exactly_the_target_is_allowed(self):
        # 3 / 300 and .01 are not the same float.
        member = np.repeat([True, False], [1, 300])
        score = np.r_[0.0, np.linspace(1, 0.5, 300)]
        assert RocCurve.of(member, score).at(0.01)[0] == pytest.approx(3 / 300)

    def test_equal_scores_are_never_told_apart(self):
        member = np.tile([True, False], 100)
        assert RocCurve.of(member, member * 0.0).at(0.99) == (0.0, 0.0)
        assert RocCurve.of(member, member * 0.0).at(1.0) == (1.0, 1.0)

    def test_it_is_kept_on_a_log_grid_of_rates(self):
        member, score = RANKINGS[0]
        kept = membership.roc(member, score)
        rates = np.array(kept)[:, 0]
        assert rates[0] == pytest.approx(1e-4)
        assert kept[-1] == [1.0, 1.0]
        assert len(kept) == 41
        assert np.diff(np.log10(rates)) == pytest.approx(np.full(40, 0.1))
        assert np.all(np.diff(np.array(kept)[:, 1]) >= 0)
        assert dict(kept)[rates[20]] == RocCurve.of(member, score).at(0.01)[1]


class TestErrors:
    def test_accuracy_is_binomial_within_each_kind(self):
        member = np.repeat([True, False], [100, 300])
        score = np.r_[np.repeat([1.0, 0.0], [80, 20]), np.repeat([1.0, 0.0], [30, 270])]
        right, wrong = math.sqrt(81 / 102 * 21 / 102 / 100), math.sqrt(31 / 302 * 271 / 302 / 300)
        found = membership.standard_errors(member, score)
        assert found["membership.accuracy"] == pytest.approx(math.hypot(right / 4, wrong * 3 / 4))
        assert found["membership.balanced_accuracy"] == pytest.approx(math.hypot(right, wrong) / 2)

    @pytest.mark.parametrize("score", [MEMBER.astype(float), 1.0 - MEMBER])
    def test_no_error_of_a_perfect_or_perfectly_wrong_attack_is_zero(self, score):
        found = {name: e for name, e in membership.standard_errors(MEMBER, score).items() if e is not None}
        assert len(found) == 4
        assert min(found.values()) > 0

    @pytest.mark.parametrize(("member", "score"), RANKINGS)
    def test_the_areas_is_delongs(self, member, score):
        inside, outside = score[member], score[~member]
        won = (inside[:, None] > outside) + (inside[:, None] == outside) / 2
        parts = [np.append(won.mean(axis=axis), 0.5) for axis in (1, 0)]
        expected = math.sqrt(sum(part.var(ddof=1) / (len(part) - 1) for part in parts))
        assert membership.auc_error(member, score) == pytest.approx(expected)

    def test_every_metric_but_the_achieved_rate_has_one(self):
        assert set(membership.standard_errors(MEMBER, SCORE)) == {
            name for name in membership.membership(MEMBER, SCORE) if "fpr" not in name
        }

    @pytest.mark.parametrize("levels", [None, pytest.param(4, marks=pytest.mark.slow)])
    def test_they_are_what_fresh_records_vary_by(self, levels):
        # 400 draws know a standard deviation to 3.5 %; 20 % is more than five times that.
        draws = [drawn(seed, 300, 1_200, 1.5, levels) for seed in range(400)]
        values = [membership.membership(*draw) for draw in draws]
        errors = [membership.standard_errors(*draw) for draw in draws]
        names = ["membership.accuracy", "membership.balanced_accuracy", "membership.auc"]
        # Among four levels the threshold does not move, or jumps.
        for name in names if levels else [*names, "membership.tpr_at_1"]:
            spread = np.std([value[name] for value in values])
            told = np.sqrt(np.mean([error[name] ** 2 for error in errors]))
            assert told == pytest.approx(spread, rel=0.2), name

    def test_the_thresholds_own_uncertainty_counts(self):
        member, score = drawn(0, 5_000, 1_000, 2.0)
        error = membership.standard_errors(member, score)["membership.tpr_at_1"]
        tpr = membership.membership(member, score)["membership.tpr_at_1"]
        assert error > 3 * math.sqrt(tpr * (1 - tpr) / 5_000)
