"""What a run keeps for people to look at: masked sentences as they are filled while it learns, and its page.

Nothing here changes a weight, and no fault here ends a run.
"""

import json
import time
from collections.abc import Callable

from bertsmith import distributed
from bertsmith.fillings import Example, fill_examples, hide_words
from bertsmith.metrics import FILLINGS, cut_after, read_metrics
from bertsmith.model import AnyPretrainingModel
from bertsmith.planning.plan import Plan
from bertsmith.report import PAGE, write_report
from bertsmith.reporter import Reporter

MOST_TIME = 0.005
"""Share of the run's time that its page may cost. It is written again whenever that share has room for it."""


class Diary:
    """Keeps RUN/fillings.jsonl and RUN/report.html, on the main rank; the others do nothing here."""

    def __init__(self, plan: Plan, reporter: Reporter, *, first_step: int) -> None:
        """Open the diary of a run that goes on at `first_step`; lines of later steps, which are done again, go."""
        self._plan, self._reporter = plan, reporter
        self._path = plan.run.folder / FILLINGS
        self._not_before = 0.0
        self._kept: set[int] = set()
        self._examples: list[Example] = []
        self._said: set[str] = set()
        self._guard("the masked sentences were not kept", lambda: self._open(first_step))

    def _open(self, first_step: int) -> None:
        cut_after(self._path, first_step)
        self._kept = {line["step"] for line in read_metrics(self._plan.run.folder, FILLINGS)}
        longest = self._plan.config.max_position_embeddings
        self._examples = list(hide_words(self._plan.held_out.source, self._plan.tokenizer, longest=longest))

    def fill(self, model: AnyPretrainingModel, step: int) -> None:
        """Fill the masked sentences and keep the guesses; once for each step."""
        if self._examples and step not in self._kept:
            self._kept.add(step)
            self._guard("the masked sentences were not kept", lambda: self._append(model, step))

    def _append(self, model: AnyPretrainingModel, step: int) -> None:
        fillings = fill_examples(model, self._plan.tokenizer, self._examples)
        line = {"step": step, "sentences": [filling._asdict() for filling in fillings]}
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")

    def write_page(self, *, at_once: bool = False) -> float:
        """Write RUN/report.html, unless that would cost too much of the run's time now.

        Args:
            at_once: Write it in any case, as at the end.

        Returns:
            Seconds that it took.
        """
        started = time.monotonic()
        if not at_once and started < self._not_before:
            return 0.0
        folder = self._plan.run.folder
        self._guard(f"{PAGE} was not written", lambda: write_report([folder], folder / PAGE))
        seconds = time.monotonic() - started
        self._not_before = started + seconds / MOST_TIME
        return seconds

    def _guard(self, what: str, do: Callable[[], object]) -> None:
        """Do something that the run can do without."""
        if not distributed.is_main():
            return
        try:
            do()
        except Exception as error:  # whatever it is: hours of training weigh more than a page
            if what not in self._said:
                self._said.add(what)
                self._reporter.warn(f"{what}: {error}; the run goes on")
