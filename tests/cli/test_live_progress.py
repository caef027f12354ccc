"""What is said of a purchase while it goes on."""

from made_target import made_target

from bench.cli.live_progress import Purchases, Waits
from bench.plan.live import Bill
from bench.remote.progress import Progress


def progress(waits=0.0):
    return Progress(inputs=5, money=0.1, per_hour=36.0, seconds_left=None, waits=waits)


def test_a_long_wait_is_said_when_it_begins_and_once_for_all_connections(capsys):
    now = [0.0]
    waits = Waits(clock=lambda: now[0])
    for seconds in (0.0, 2.0, 120.0, 120.5, 119.0):
        waits(progress(seconds))
    assert capsys.readouterr().err.splitlines() == [
        "the target asks to wait, or its rate is reached: the next request is in 2 min 0 s"
    ]
    now[0] = 110.0
    waits(progress(5.0))
    assert not capsys.readouterr().err, "it ends before the wait that was told"
    waits(progress(30.0))
    assert "in 30 s" in capsys.readouterr().err


def test_a_purchase_that_waits_says_so_before_its_next_line_is_due(capsys):
    now = [0.0]
    said = Purchases(Bill(made_target(), test=10, canary=0), clock=lambda: now[0])
    said(progress(300.0))
    assert capsys.readouterr().err.splitlines() == [
        "the target asks to wait, or its rate is reached: the next request is in 5 min 0 s"
    ]
    now[0] = 6.0
    said(progress())
    assert "5 of up to 10 inputs" in capsys.readouterr().err
