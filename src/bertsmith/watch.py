"""What can go wrong while a run trains, noticed and said: losses that are not finite, losses that do not fall."""

from collections import deque

from bertsmith.errors import UserError
from bertsmith.reporter import Reporter
from bertsmith.step import StepResult

MAX_SKIPPED = 5
"""So many steps in a row without a finite loss, and the run stops."""

WINDOW = 100
"""Steps whose mean is compared with the unigram level."""

FEWEST_STEPS = 500
"""Earlier even a good run may stand there: on English Wikipedia, with 16 rows a step, the first 200 to 400 steps."""

MARGIN = 0.1
"""Nats below the unigram level that count as having left it."""


class Watch:
    """Looks at each step's result."""

    def __init__(self, reporter: Reporter, *, unigram_loss: float, learning_rate: float, max_steps: int) -> None:
        """Begin to watch.

        Args:
            reporter: Who to tell.
            unigram_loss: What a model scores that knows only how frequent tokens are, in nats.
            learning_rate: The run's peak, named in the advice.
            max_steps: Steps of the run; a fifth of them is time enough to leave the unigram level.
        """
        self.reporter = reporter
        self.unigram_loss = unigram_loss
        self.learning_rate = learning_rate
        self.patience = max(FEWEST_STEPS, max_steps // 5)
        self.recent: deque[float] = deque(maxlen=WINDOW)
        self.skipped = 0
        self.warned = False

    def look(self, step: int, result: StepResult) -> None:
        """Take one step into account. `step` counts finished steps.

        Raises:
            UserError: MAX_SKIPPED steps in a row were not finite.
        """
        if not result.applied:
            self._skipped(step, result)
            return
        self.skipped = 0
        self.recent.append(result.measured.mlm_loss)
        stuck = sum(self.recent) / len(self.recent) > self.unigram_loss - MARGIN
        if stuck and step >= self.patience and len(self.recent) == WINDOW and not self.warned:
            self.warned = True
            self.reporter.warn(
                f"after {step:,} steps the loss still stands at the unigram level ({self.unigram_loss:.2f} nats): the "
                f"model predicts frequencies only. The learning rate ({self.learning_rate:g}) is probably too high; "
                f"stop and try --learning-rate {self.learning_rate / 3:.1g} with --fresh"
            )

    def _skipped(self, step: int, result: StepResult) -> None:
        self.skipped += 1
        self.reporter.warn(
            f"step {step:,}: loss {result.measured.loss}, gradient norm {result.grad_norm}: not finite, step skipped"
        )
        if self.skipped >= MAX_SKIPPED:
            raise UserError(
                f"{MAX_SKIPPED} steps in a row had no finite loss or gradient (step {step:,}, learning_rate "
                f"{self.learning_rate:g}); start again with --fresh and a lower --learning-rate, or --precision float32"
            )
