"""Ensembles: steps, tensor maps, types, shapes and the way data takes."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..text_files import near
from .reading import ENSEMBLE, ModelFolder, Repository, dims_fit, dims_text, enum_name
from .rules import Findings


class _End(NamedTuple):
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
    config, scheduling = model.config, model.config.ensemble_scheduling
    for field in ("instance_group[0]", "optimization", "model_warmup[0]"):
        if field in model.parsed.lines:
            name = field.removesuffix("[0]")
            problem = f"an ensemble has no {name} of its own; its steps have"
            yield model.at("ensemble-config", field, problem, f"remove {name}")
    if config.platform != ENSEMBLE:
        problem = f"ensemble_scheduling is set and platform is {config.platform!r}"
        fix = 'write platform: "ensemble" and no backend'
        yield model.at("platform-backend", "ensemble_scheduling", problem, fix)
    elif not scheduling.step:
        fix = "write ensemble_scheduling with a step for each model"
        yield model.at("ensemble-config", "platform", "the ensemble has no step", fix)
    ends: dict[str, list[_End]] = defaultdict(list)
    for kind in ("input", "output"):
        for tensor in getattr(config, kind):
            dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            ends[tensor.name].append(_end(model, tensor, f"the ensemble's {kind}", dims))
    for number, step in enumerate(scheduling.step):
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
        elif target.has_config:  # else the target's own findings say why
            yield from _step(model, where, step, target, ends)
    yield from _consistent(model, ends)
    yield from _flow(model, repository)


def _end(model: ModelFolder, tensor: Any, owner: str, dims: Sequence[int]) -> _End:
    return _End(owner, enum_name(tensor, "data_type"), tuple(dims), model.batched)


def _reached(name: str, repository: Repository, seen: frozenset[str] = frozenset()) -> set[str]:
    """The models that an ensemble runs, in its steps and in theirs."""
    if name in seen or name not in repository.models:
        return set()
    steps = repository.models[name].config.ensemble_scheduling.step
    names = {step.model_name for step in steps}
    return names.union(*(_reached(inner, repository, seen | {name}) for inner in names))


def _step(
    model: ModelFolder, where: str, step: Any, target: ModelFolder, ends: dict[str, list[_End]]
) -> Findings:
    for kind, mapping in (("input", step.input_map), ("output", step.output_map)):
        tensors = {tensor.name: tensor for tensor in getattr(target.config, kind)}
        if not mapping:
            problem = f"the step of {target.name} has no {kind}_map"
            yield model.at("ensemble-map", where, problem, f"map an {kind} of {target.name}")
        for own, outer in mapping.items():
            if own in tensors:
                owner = f"{target.name}'s {kind} {own}"
                ends[outer].append(_end(target, tensors[own], owner, tensors[own].dims))
            elif tensors:
                problem = f"{target.name} has no {kind} {own!r}; it has {', '.join(tensors)}"
                fix = f"map one of its own{near(own, tensors)}"
                yield model.at("ensemble-map", f"{where}.{kind}_map[{own}]", problem, fix)
        for name, tensor in tensors.items():
            if kind == "input" and name not in mapping and not tensor.optional:
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
    for name, (first, *others) in ends.items():
        for other in others:
            fits = dims_fit(first.dims, other.dims) or dims_fit(first.full_dims, other.full_dims)
            if first.data_type != other.data_type:
                rule, what = "ensemble-type", "data_type"
                one, two = first.data_type, other.data_type
            elif not fits:
                rule, what = "ensemble-shape", "dims"
                one, two = dims_text(first.dims), dims_text(other.dims)
            else:
                continue
            problem = f"{name!r} is {one} as {first.owner}, {two} as {other.owner}"
            fix = f"give both the same {what}"
            yield model.at(rule, _field_of(model, name), problem, fix)


def _flow(model: ModelFolder, repository: Repository) -> Findings:
    inputs = {tensor.name for tensor in model.config.input}
    outputs = {tensor.name for tensor in model.config.output}
    produced: dict[str, list[str]] = defaultdict(list)
    consumed: dict[str, list[str]] = defaultdict(list)
    for step in model.config.ensemble_scheduling.step:
        for models, mapping in ((produced, step.output_map), (consumed, step.input_map)):
            for tensor in mapping.values():
                models[tensor].append(step.model_name)
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
    yield from _order(model, repository, complete=not missing)


def _order(model: ModelFolder, repository: Repository, *, complete: bool) -> Findings:
    """Steps that join the responses of two decoupled models, which come in no common order; and,
    where all tensors are made, steps that wait for their own result."""
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
    for number, step in steps.items() if complete else ():
        problem = f"step {number}, {step.model_name}, waits for its own result"
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
