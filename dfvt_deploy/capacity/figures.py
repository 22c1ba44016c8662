"""What one server was measured to need."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..manifest import Record

Count = Annotated[int, Field(ge=1)]
Samples = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class Step(Record):
    """One step that each request passes, and where it waits for its turn.

    milliseconds: measured times of one execution while nothing else ran, by the number of images in
        its batch; each sample is as likely as the others, and no larger batch is made.
    instances: executions at the same time; None for any number.
    busy: processors of `device` that one execution keeps busy.
    queue_size: requests that may wait for the step; further ones are refused. None for any number.
    """

    name: str
    milliseconds: dict[Count, Samples]
    instances: Count | None = None
    device: Literal["cpu", "gpu"] = "cpu"
    busy: Annotated[float, Field(ge=0)] = 1.0
    queue_size: Count | None = None


class Figures(Record):
    """One server: its processors, and the steps of a request in their order.

    model, machine: words for people.
    together: speed of an execution while all cores are busy, as a share of its speed alone. Cores
        share caches, memory and clock.
    """

    model: str
    machine: str
    cores: Count
    gpus: Annotated[int, Field(ge=0)] = 0
    together: Annotated[float, Field(gt=0, le=1)] = 1.0
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _can_run(self) -> "Figures":
        for step in self.steps:
            if 1 not in step.milliseconds:
                raise ValueError(f"step {step.name} has no times of one image")
            if step.device == "gpu" and not self.gpus:
                raise ValueError(f"step {step.name} runs on a GPU, and gpus is 0")
        if not any(step.instances or step.busy for step in self.steps):
            raise ValueError(
                "no step has instances or keeps a processor busy, so no rate is too much"
            )
        return self
