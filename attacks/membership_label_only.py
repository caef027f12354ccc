"""Membership inference from labels alone, by their robustness."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from attacks.base import Api, Array, Images, Pool, Records, Target
from attacks.common.thresholding import Thresholding


class MembershipLabelOnly(Thresholding):
    """Counts the small translations under which a record keeps its true label.

    ``shift``: the paper's d, in pixels; the record itself and all translations by i and j pixels with
    abs(i) + abs(j) = d are sent, 4 d + 1 queries, black where no pixel moved in. A rejected query counts
    as a wrong label. The paper trains a small network on which queries were labelled correctly; here
    their number is compared with a threshold.
    """

    name = "membership_label_only"
    paper = "Choquette-Choo et al. 2021, arXiv 2007.14321, section 3.2"

    def __init__(
        self,
        *,
        members: Annotated[int, Field(ge=20)] = 10_000,
        target: Literal["victim", "surrogate"] = "victim",
        shift: Annotated[int, Field(ge=1, le=7)] = 1,
    ) -> None:
        super().__init__(members=members, target=target)
        self.shift = shift

    def applicable(self, pool: Pool, target: Target) -> str:
        """Return why not, where inputs are no images."""
        if target.layout != "images":
            return f"it translates images by pixels, and inputs are {target.layout}"
        return ""

    @property
    def queries_per_record(self) -> int:  # type: ignore[override]  # the base's is a constant
        """Queries to the target for one record."""
        return len(offsets(self.shift))

    def statistic(self, api: Api, records: Records) -> Array:
        """Return (n,) numbers of queries that were answered with the true label."""
        right, black = np.zeros(len(records)), api.inputs.limits[0]
        for down, across in offsets(self.shift):
            answers = api.predict(translated(records.x, down, across, black))
            rejected = np.isnan(answers).any(axis=1)
            right += (np.nan_to_num(answers).argmax(axis=1) == records.y) & ~rejected
        return right


def offsets(distance: int) -> list[tuple[int, int]]:
    """Return (0, 0), then all moves (down, across) of ``distance`` pixels in the city-block metric."""
    ring = [
        (down, across)
        for down in range(-distance, distance + 1)
        for across in {distance - abs(down), abs(down) - distance}
    ]
    return [(0, 0), *sorted(ring)]


def translated(x: Images, down: int, across: int, black: Images) -> Images:
    """Return images (n, channels, height, width) moved by whole pixels; pixels that move in are ``black``."""
    _, _, height, width = x.shape
    moved = np.zeros_like(x) + black
    if abs(down) < height and abs(across) < width:
        moved[:, :, max(down, 0) : height + min(down, 0), max(across, 0) : width + min(across, 0)] = x[
            :, :, max(-down, 0) : height + min(-down, 0), max(-across, 0) : width + min(-across, 0)
        ]
    return moved
