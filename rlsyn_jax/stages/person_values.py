"""What each person brings to the figures of an arm, for studies over several runs.

per_person.json: {"weights": {measure: {person: number of queries, images or pairs}}, "arms": {arm:
{measure: {person: [value of each seed]}}}}. The mean of a measure's values over people, with these
weights, is its figure in metrics.json, so that runs can be pooled and people drawn anew: paired by
person and seed, within a run or over runs of one target.
"""

from __future__ import annotations

import numpy as np


class PersonValues:
    """Collects values of queries, images or pairs, and gives their means by person."""

    def __init__(self, names: tuple[str, ...]):
        """Begins with nothing.

        Args:
            names: of the people that there are.
        """
        self._names = names
        self._weights: dict[str, dict[str, int]] = {}
        self._arms: dict[str, dict[str, dict[str, list[float]]]] = {}

    def add(self, arm: str, measure: str, values: np.ndarray, people: np.ndarray) -> None:
        """Adds one seed of an arm.

        Args:
            arm, measure: names.
            values: float or bool [n].
            people: int [n], whom each belongs to, the same for all arms and seeds.
        """
        sums = np.bincount(people, weights=np.asarray(values, np.float64))
        counts = np.bincount(people)
        of_person = self._arms.setdefault(arm, {}).setdefault(measure, {})
        for person in np.flatnonzero(counts):
            name = self._names[person]
            of_person.setdefault(name, []).append(float(sums[person] / counts[person]))
            self._weights.setdefault(measure, {})[name] = int(counts[person])

    def content(self) -> dict:
        """Returns what per_person.json holds."""
        return {"weights": self._weights, "arms": self._arms}
