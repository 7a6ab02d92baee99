"""A progress that remembers, and interrupts a run where a test wants it to."""

from asu_lora.progress import Progress


class Listener(Progress):
    """Keeps what it hears; interrupts the run at a step of training, or at a stage."""

    def __init__(self, stop_at: int | None = None, stop_stage: str = ""):
        self.stages, self.figures, self.notes, self.steps, self.closed = [], [], [], 0, False
        self.stop_at, self.stop_stage = stop_at, stop_stage

    def stage(self, name, total=None):
        self.stages.append(name)
        if self.stop_stage and name.startswith(self.stop_stage):
            raise KeyboardInterrupt

    def advance(self, amount=1, **figures):
        if "loss" in figures:
            self.figures.append(figures)
        if self.stages[-1].startswith("Training"):
            self.steps += amount
            if self.steps == self.stop_at:
                raise KeyboardInterrupt

    def note(self, text):
        self.notes.append(text)

    def close(self):
        self.closed = True
