"""Ensembles: steps, tensor maps, types, shapes and the way data takes."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..text_files import near
from .reading import ENSEMBLE, ModelFolder, Repository, dims_text
from .rules import Findings


@dataclass(frozen=True)
class _End:
    """One end of an ensemble's tensor: a model's tensor that it is mapped to."""

    owner: str
    data_type: str
    dims: tuple[int, ...]
    batched: bool

    @property
    def full_dims(self) -> tuple[int, ...]:
        return (-1, *self.dims) if self.batched else self.dims


def check_ensemble(model: ModelFolder, repository: Repository) -> Findings:
    """Everything about one ensemble; nothing about other models."""
    if model.backend != ENSEMBLE:
        return
    config = model.config
    for field in ("instance_group[0]", "optimization", "model_warmup[0]"):
        if field in model.parsed.lines:
            name = field.removesuffix("[0]")
            problem = f"an ensemble has no {name} of its own; its steps have"
            yield model.at("ensemble-config", field, problem, f"remove {name}")
    if config.platform != ENSEMBLE:
        problem = f"ensemble_scheduling is set and platform is {config.platform!r}"
        fix = 'write platform: "ensemble" and no backend'
        yield model.at("platform-backend", "ensemble_scheduling", problem, fix)
    elif not config.ensemble_scheduling.step:
        fix = "write ensemble_scheduling with a step for each model"
        yield model.at("ensemble-config", "platform", "the ensemble has no step", fix)
    ends: dict[str, list[_End]] = defaultdict(list)
    for kind in ("input", "output"):
        for tensor in getattr(config, kind):
            ends[tensor.name].append(_end(model, tensor, f"the ensemble's {kind}", outer=True))
    produced: dict[str, list[str]] = defaultdict(list)
    consumed: dict[str, list[str]] = defaultdict(list)
    needs: list[tuple[set[str], set[str]]] = []
    for number, step in enumerate(config.ensemble_scheduling.step):
        where = f"ensemble_scheduling.step[{number}]"
        target = repository.models.get(step.model_name)
        if target is None:
            fix = f"add the model, or correct the name{near(step.model_name, repository.models)}"
            problem = f"step {number} is {step.model_name!r}, which the repository does not hold"
            yield model.at("ensemble-step", f"{where}.model_name", problem, fix)
        elif target is model or model.name in _reached(step.model_name, repository):
            through = "" if target is model else f" through {step.model_name}"
            problem = f"step {number} is the ensemble itself{through}"
            yield model.at("ensemble-flow", f"{where}.model_name", problem, "break the circle")
        else:
            yield from _step(model, where, step, target, ends)
        for tensor in step.output_map.values():
            produced[tensor].append(step.model_name)
        for tensor in step.input_map.values():
            consumed[tensor].append(step.model_name)
        needs.append((set(step.input_map.values()), set(step.output_map.values())))
    yield from _consistent(model, ends)
    yield from _flow(model, produced, consumed, needs)
    yield from _responses(model, repository)


def _reached(name: str, repository: Repository, seen: frozenset[str] = frozenset()) -> set[str]:
    """The models that an ensemble runs, in its steps and in theirs."""
    if name in seen or name not in repository.models:
        return set()
    steps = repository.models[name].config.ensemble_scheduling.step
    names = {step.model_name for step in steps}
    return names.union(*(_reached(inner, repository, seen | {name}) for inner in names))


def _responses(model: ModelFolder, repository: Repository) -> Findings:
    """Steps that join the responses of two decoupled models, which come in no common order."""
    sources = dict.fromkeys((tensor.name for tensor in model.config.input), "the request")
    steps = dict(enumerate(model.config.ensemble_scheduling.step))
    while ready := [n for n, s in steps.items() if sources.keys() >= set(s.input_map.values())]:
        for number in ready:
            step = steps.pop(number)
            origins = {sources[tensor] for tensor in step.input_map.values()}
            if len(origins) > 1:
                problem = f"{step.model_name} takes tensors of {' and '.join(sorted(origins))}"
                fix = "take all from one decoupled model, or join them in a model of its own"
                field = f"ensemble_scheduling.step[{number}]"
                yield model.at("ensemble-decoupled", field, problem, fix)
            target = repository.models.get(step.model_name)
            decoupled = target and target.config.model_transaction_policy.decoupled
            origin = f"the decoupled step {number}" if decoupled else min(origins, default="")
            sources.update(dict.fromkeys(step.output_map.values(), origin))


def _end(model: ModelFolder, tensor: Any, owner: str, *, outer: bool = False) -> _End:
    dims = tensor.reshape.shape if outer and tensor.HasField("reshape") else tensor.dims
    type_name = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type
    name = type_name.values_by_number[tensor.data_type].name
    return _End(owner, name, tuple(dims), model.batched)


def _step(
    model: ModelFolder, where: str, step: Any, target: ModelFolder, ends: dict[str, list[_End]]
) -> Findings:
    if not target.has_config:
        return  # the target's own findings say why
    for kind, mapping in (("input", step.input_map), ("output", step.output_map)):
        tensors = {tensor.name: tensor for tensor in getattr(target.config, kind)}
        if not mapping:
            problem = f"the step of {target.name} has no {kind}_map"
            yield model.at("ensemble-map", where, problem, f"map an {kind} of {target.name}")
        for own, outer in mapping.items():
            field = f"{where}.{kind}_map[{own}]"
            if own not in tensors:
                have = ", ".join(tensors) or "none that the config lists"
                problem = f"{target.name} has no {kind} {own!r}; it has {have}"
                if tensors:
                    fix = f"map one of its own{near(own, tensors)}"
                    yield model.at("ensemble-map", field, problem, fix)
                continue
            ends[outer].append(_end(target, tensors[own], f"{target.name}'s {kind} {own}"))
        if kind == "input":
            for name, tensor in tensors.items():
                if name not in mapping and not tensor.optional:
                    problem = f"{target.name}'s input {name!r} is mapped to no tensor"
                    yield model.at("ensemble-map", where, problem, "add it to input_map")
    limit, batch = target.config.max_batch_size, model.config.max_batch_size
    if limit and limit < batch:
        problem = f"the ensemble takes batches of {batch}, {target.name} takes {limit}"
        yield model.at("ensemble-batch", "max_batch_size", problem, f"write {limit} or less")
    version = step.model_version
    if version != -1 and version not in target.served_versions:
        have = ", ".join(map(str, target.served_versions)) or "none"
        problem = f"model_version is {version}, {target.name} serves {have}"
        yield model.at("ensemble-step", f"{where}.model_version", problem, "write -1, the latest")


def _consistent(model: ModelFolder, ends: dict[str, list[_End]]) -> Findings:
    for name, found in ends.items():
        first = found[0]
        for other in found[1:]:
            if first.data_type != other.data_type:
                problem = (
                    f"{name!r} is {first.data_type} as {first.owner}, "
                    f"{other.data_type} as {other.owner}"
                )
                field = _field_of(model, name)
                yield model.at("ensemble-type", field, problem, "give both the same data_type")
            elif not (_match(first.dims, other.dims) or _match(first.full_dims, other.full_dims)):
                problem = (
                    f"{name!r} is {dims_text(first.dims)} as {first.owner}, "
                    f"{dims_text(other.dims)} as {other.owner}"
                )
                field = _field_of(model, name)
                yield model.at("ensemble-shape", field, problem, "give both the same dims")


def _match(first: Sequence[int], second: Sequence[int]) -> bool:
    return len(first) == len(second) and all(
        a == b or -1 in (a, b) for a, b in zip(first, second, strict=True)
    )


def _flow(
    model: ModelFolder,
    produced: dict[str, list[str]],
    consumed: dict[str, list[str]],
    needs: list[tuple[set[str], set[str]]],
) -> Findings:
    inputs = {tensor.name for tensor in model.config.input}
    outputs = {tensor.name for tensor in model.config.output}
    for name, producers in produced.items():
        if len(producers) > 1 or name in inputs:
            what = "is an input of the ensemble" if name in inputs else f"comes from {producers[0]}"
            problem = f"{name!r} {what} and from {producers[-1]}"
            yield model.at("ensemble-flow", _field_of(model, name), problem, "rename one of them")
        if name not in consumed and name not in outputs:
            fix = "remove it from output_map; the step's output is then not sent"
            problem = f"{producers[0]} makes {name!r}, and nothing takes it"
            yield model.at("ensemble-unused", _field_of(model, name), problem, fix)
    missing = (consumed.keys() | outputs) - produced.keys() - inputs
    for name in sorted(missing):
        consumer = consumed.get(name, ["the ensemble's output"])[0]
        problem = f"{consumer} takes {name!r}, which no step makes"
        fix = f"map an output to it{near(name, produced)}"
        yield model.at("ensemble-flow", _field_of(model, name), problem, fix)
    for name in sorted(inputs - consumed.keys()):
        problem = f"no step takes the ensemble's input {name!r}"
        yield model.at("ensemble-flow", _field_of(model, name), problem, "map it or remove it")
    if not missing:
        yield from _circles(model, inputs, needs)


def _circles(
    model: ModelFolder, inputs: set[str], needs: list[tuple[set[str], set[str]]]
) -> Findings:
    ready, waiting = set(inputs), list(enumerate(needs))
    while True:
        runnable = [(n, step) for n, step in waiting if step[0] <= ready]
        if not runnable:
            break
        for _, (_, made) in runnable:
            ready |= made
        waiting = [entry for entry in waiting if entry not in runnable]
    for number, _ in waiting:
        name = model.config.ensemble_scheduling.step[number].model_name
        problem = f"step {number}, {name}, waits for its own result"
        field = f"ensemble_scheduling.step[{number}]"
        yield model.at("ensemble-flow", field, problem, "break the circle")


def _field_of(model: ModelFolder, tensor: str) -> str:
    """The field that first names an ensemble's tensor."""
    config = model.config
    for kind in ("input", "output"):
        for number, entry in enumerate(getattr(config, kind)):
            if entry.name == tensor:
                return f"{kind}[{number}]"
    for number, step in enumerate(config.ensemble_scheduling.step):
        for kind in ("input_map", "output_map"):
            for own, outer in getattr(step, kind).items():
                if outer == tensor:
                    return f"ensemble_scheduling.step[{number}].{kind}[{own}]"
    return "ensemble_scheduling"
