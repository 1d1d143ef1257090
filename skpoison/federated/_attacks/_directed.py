"""Attacks against the direction in which training would go."""

import numpy as np

from skpoison.federated._attacks._base import BaseUpdateAttack
from skpoison.federated._attacks._knowledge import (
    aggregated,
    mean,
    server_rule,
    usable,
)
from skpoison.utils._validation import check_number, check_option


class DirectedAttack(BaseUpdateAttack):
    """Base of the attacks of Fang et al.: all weights are pushed the wrong way."""

    goal = "directed"
    direction = "mean"
    zero_direction = -1

    def _check_params(self):
        super()._check_params()
        check_option("goal", self.goal, ("directed", "deviation"))
        check_option("direction", self.direction, ("mean", "aggregate"))
        check_number(
            "zero_direction", self.zero_direction, low=-1, high=0, integer=True
        )

    def _course(self, context):
        """Return how the global weights would move, as far as is known."""
        if self.direction == "aggregate" and len(context.benign):
            rule = server_rule(context, self.assumed_aggregator)
            return aggregated(rule, context.updates, len(context.byzantine))
        return mean(usable(context))

    def _signs(self, course):
        """Return the direction of each weight; what stands still is said to fall."""
        signs = np.where(course > 0, 1.0, -1.0)
        if self.zero_direction == 0:
            signs[course == 0] = 0
        return signs

    def _note(self, context, known):
        """Note for how many of the weights that move the direction was right."""
        if self.goal == "deviation":
            return
        if self.knowledge == "full":
            self.info_["signs_right"] = 1.0
            return
        course = mean(usable(context))
        moving = course != 0
        if moving.any():
            seen = self._signs(self._course(known))
            right = seen[moving] == np.sign(course[moving])
            self.info_["signs_right"] = float(right.mean())
