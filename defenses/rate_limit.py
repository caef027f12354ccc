"""A quota: so many answers in so many queries, and refusals beyond.

One of the controls of a lab on OWASP ML05:2023 (study owasp-digits), which speaks of blocking
suspicious query patterns. This one looks at no pattern: it counts.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from defenses.base import Answers, Batch, Claims, Defense, StrengthRange


class RateLimit(Defense):
    """Of every ``window`` consecutive queries of a client, answer the first ``limit`` and refuse the rest.

    Time is counted in queries, the only clock that every attacker shares: a window starts with the
    client's first query and again after every ``window`` of them, refused ones included. Who sends
    from several accounts has several quotas; no more is promised.
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
        """Answers that are given are given unchanged; a limit as large as the window refuses nothing."""
        limits = self.limit < self.window
        return Claims(counts_queries=limits, may_refuse=limits)

    def answer(self, batch: Batch) -> Answers:
        """Refuse by the running number of the query; nothing is flagged, since no query is judged."""
        place = (batch.number + np.arange(len(batch))) % self.window
        refused = place >= self.limit
        answers = np.where(refused[:, None], np.nan, batch.probabilities)
        return Answers(answers, refused, np.zeros_like(refused))
