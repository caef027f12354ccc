import datetime as dt

from made_target import made_target

from bench.plan.live import Bill

NOON = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC)


def warned(rate, until):
    permission = {"who": "me", "until": until, "reference": "a letter"}
    bill = Bill(made_target(rate=rate, permission=permission), test=980, canary=20)
    return [line for line in bill.lines(now=NOON) if "permission" in line]


def test_a_plan_says_where_the_permission_ends_before_all_of_it_can_be_sent():
    (line,) = warned("80/hour", dt.date(2026, 12, 1))
    assert "the permission ends on 2026-12-01, in 12.0 h, before all of this can be sent" in line


def test_a_plan_that_ends_before_the_permission_says_nothing_of_it():
    assert not warned("100/hour", dt.date(2026, 12, 1))
    assert not warned(None, dt.date(2026, 12, 1))
