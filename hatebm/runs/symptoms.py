"""A training under watch for the symptoms of its system, each of which is told once."""

from collections import deque
from collections.abc import Iterable, Sequence

from hatebm.learning.config import Config
from hatebm.learning.symptoms import Symptom

WINDOW = 100  # iterations that a symptom must last


class Watched:
    """A training under watch: each symptom is told once.

    symptoms: those of its system; rows: those of the iterations that are over, whose symptoms were told then.
    """

    def __init__(self, symptoms: Sequence[Symptom], config: Config, rows: Iterable[dict] = ()) -> None:
        self.symptoms, self.config, self.told = symptoms, config, set()
        self.rows: deque[dict] = deque(maxlen=2 * WINDOW)
        for row in rows:
            self.see(row)

    def see(self, row: dict) -> list[str]:
        """Advice on what this row shows for the first time."""
        self.rows.append(row)
        if len(self.rows) < 2 * WINDOW or row["step"] % (WINDOW // 10):
            return []
        rows = list(self.rows)
        new = [
            symptom
            for symptom in self.symptoms
            if symptom not in self.told
            and all(name in row for name in symptom.metrics)
            and symptom.shows(rows, self.config)
        ]
        self.told.update(new)
        return [symptom.advice for symptom in new]
