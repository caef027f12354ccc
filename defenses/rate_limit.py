"""A rate limit: queries above a quota are rejected.

One of the controls of a lab on OWASP ML05:2023 (study owasp-digits), which mentions blocking
suspicious query patterns. This one detects no pattern: it counts.
"""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from defenses import predicates
from defenses.base import Answers, Batch, Claims, Defense, Predicate, StrengthRange


class RateLimit(Defense):
    """Answers the first ``limit`` of every ``window`` consecutive queries of a client, rejects the rest.

    Time is counted in queries, the only clock that all attackers share: a window starts with the
    client's first query and again after every ``window`` of them, rejected ones included. An attacker
    with several accounts has several quotas.
    """

    name = "rate_limit"
    paper = "OWASP Machine Learning Security Top 10, ML05:2023; study owasp-digits"
    known_by = ("evade",)
    strength = StrengthRange("limit", "window", 1, whole=True)

    def __init__(
        self, *, limit: Annotated[int, Field(ge=1)] = 60, window: Annotated[int, Field(ge=1)] = 100
    ) -> None:
        if limit > window:
            raise ValueError(f"limit={limit} is above window={window}; limit in [1, window] is allowed")
        self.limit, self.window = limit, window

    @property
    def claims(self) -> Claims:
        """Answers are unchanged; a limit as large as the window rejects nothing."""
        limits = self.limit < self.window
        return Claims(counts_queries=limits, may_refuse=limits)

    @property
    def predicates(self) -> Sequence[Predicate]:
        """What is not rejected is unchanged."""
        return (predicates.unchanged_unless_rejected(),)

    def answer(self, batch: Batch) -> Answers:
        """Return answers, rejected by the running number of the query; no query is flagged."""
        position = (batch.number + np.arange(len(batch))) % self.window
        refused = position >= self.limit
        answers = np.where(refused[:, None], np.nan, batch.probabilities)
        return Answers(answers, refused, np.zeros_like(refused))
