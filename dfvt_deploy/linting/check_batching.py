"""Schedulers: dynamic batching, sequences, batch inputs and outputs, the response cache."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from .reading import ModelFolder, enum_name
from .rules import Findings

_SCHEDULERS = ("dynamic_batching", "sequence_batching", "ensemble_scheduling")

_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")

_CORRELATION_TYPES = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")


def check_batching(model: ModelFolder) -> Findings:
    """How one model's requests are put together."""
    config = model.config
    chosen = config.WhichOneof("scheduling_choice")
    written = [name for name in _SCHEDULERS if name in model.parsed.lines]
    if len(written) > 1:
        problem = f"{' and '.join(written)} are set, the last one ({chosen}) counts"
        yield model.at("schedulers", written[0], problem, "keep one of them")
    if chosen == "dynamic_batching":
        yield from _dynamic(model, config.dynamic_batching)
    elif chosen == "sequence_batching":
        yield from _sequences(model, config.sequence_batching)
    yield from _batch_tensors(model)
    if config.response_cache.enable:
        without = ["sequence_batching"] if chosen == "sequence_batching" else []
        without += ["a decoupled model"] if config.model_transaction_policy.decoupled else []
        for what in without:
            problem = f"response_cache is set with {what}"
            yield model.at("response-cache", "response_cache", problem, "remove one of the two")


def _dynamic(model: ModelFolder, batching: Any) -> Findings:
    rule, where = "dynamic-batching", "dynamic_batching"
    if model.config.max_batch_size <= 1:
        problem = f"dynamic_batching is set and max_batch_size is {model.config.max_batch_size}"
        fix = "raise max_batch_size, or remove dynamic_batching"
        yield model.at("batching-without-batch", where, problem, fix)
    yield from _preferred(model, rule, where, batching.preferred_batch_size)
    for policy in (batching.default_queue_policy, *batching.priority_queue_policy.values()):
        if policy.allow_timeout_override and not policy.default_timeout_microseconds:
            problem = "allow_timeout_override is set without default_timeout_microseconds"
            fix = "set a default: a request can only shorten one that is not 0"
            yield model.at("queue-policy", f"{where}.default_queue_policy", problem, fix)
        delays = policy.timeout_action == 1 and policy.default_timeout_microseconds
        if batching.preserve_ordering and delays:
            problem = "timeout_action DELAY is set with preserve_ordering"
            yield model.at(rule, where, problem, "use REJECT, or drop the ordering")
    levels, default = batching.priority_levels, batching.default_priority_level
    field = f"{where}.priority_levels"
    if levels and not 1 <= default <= levels:
        problem = f"default_priority_level {default} is outside 1..{levels}"
        yield model.at(rule, field, problem, "set one of the levels")
    for level in batching.priority_queue_policy:
        if not 1 <= level <= levels:
            problem = f"priority_queue_policy is for level {level}, there are {levels}"
            yield model.at(rule, field, problem, "raise priority_levels")
    if levels > 1 and batching.preserve_ordering:
        problem = f"preserve_ordering is set with {levels} priority levels"
        yield model.at(rule, field, problem, "keep one of the two")


def _preferred(model: ModelFolder, rule: str, where: str, sizes: Iterable[int]) -> Findings:
    most, field = model.config.max_batch_size, f"{where}.preferred_batch_size"
    for size in sizes:
        if not 0 < size <= most:
            problem = f"preferred_batch_size {size} is outside 1..{most}"
            yield model.at(rule, field, problem, "keep sizes up to max_batch_size")


def _sequences(model: ModelFolder, batching: Any) -> Findings:
    rule, where = "sequence-batching", "sequence_batching"
    yield from _controls(model, batching.control_input)
    for number, state in enumerate(batching.state):
        for initial in state.initial_state:
            file = model.path / "initial_state" / initial.data_file
            if initial.data_file and not file.is_file():
                problem = f"the initial state {initial.data_file} is missing"
                fix = "add the file to the folder initial_state of the model"
                yield model.at(rule, f"{where}.state[{number}]", problem, fix)
    sizes = batching.oldest.preferred_batch_size
    yield from _preferred(model, rule, f"{where}.oldest", sizes)
    utilization = batching.direct.minimum_slot_utilization
    if not 0 <= utilization <= 1:
        problem = f"minimum_slot_utilization {utilization:g} is outside 0..1"
        yield model.at(rule, f"{where}.direct", problem, "write a share")


def _controls(model: ModelFolder, tensors: Iterable[Any]) -> Findings:
    names = {tensor.name for tensor in model.config.input}
    kinds: set[str] = set()
    for number, tensor in enumerate(tensors):
        at = partial(model.at, "sequence-batching", f"sequence_batching.control_input[{number}]")
        if not tensor.name:
            yield at("the control input has no name", "write its name")
        elif tensor.name in names:
            problem = f"another input is called {tensor.name!r} too"
            yield at(problem, "remove it from input, or rename it")
        names.add(tensor.name)
        if not tensor.control:
            yield at(f"control input {tensor.name!r} has no control", "say what it controls")
        for control in tensor.control:
            kind = enum_name(control, "kind")
            if kind in kinds:
                yield at(f"{kind} is set a second time", "keep one of the two")
            kinds.add(kind)
            values = {name: len(getattr(control, name)) for name in _VALUES}
            given = {name: count for name, count in values.items() if count}
            if kind != "CONTROL_SEQUENCE_CORRID":
                if [*given.values()] != [2]:
                    found = " and ".join(f"{name} of {count}" for name, count in given.items())
                    takes = f"takes one of {', '.join(_VALUES)} with 2 values"
                    problem = f"{kind} {takes}; it has {found or 'none'}"
                    yield at(problem, "write int32_false_true: [ 0, 1 ]")
                continue
            if (name := enum_name(control, "data_type")) not in _CORRELATION_TYPES:
                takes = ", ".join(_CORRELATION_TYPES)
                problem = f"{kind} has data_type {name}, not one of {takes}"
                yield at(problem, "write TYPE_UINT64")
            if given:
                yield at(f"{kind} takes no {' and '.join(given)}", "remove the values")


def _batch_tensors(model: ModelFolder) -> Findings:
    config = model.config
    inputs = {tensor.name for tensor in config.input}
    outputs = {tensor.name for tensor in config.output}
    for kind in ("batch_input", "batch_output"):
        for number, entry in enumerate(getattr(config, kind)):
            at = partial(model.at, "batch-io", f"{kind}[{number}]", fix="correct it")
            if len(entry.source_input) != 1:
                yield at(f"source_input has {len(entry.source_input)} names, not one")
            unknown = set(entry.source_input) - inputs
            if kind == "batch_output":
                unknown |= set(entry.target_name) - outputs
                if len(set(entry.target_name)) < len(entry.target_name):
                    yield at("target_name has a name twice")
            elif enum_name(entry, "data_type") not in ("TYPE_INT32", "TYPE_FP32"):
                yield at("data_type is neither TYPE_INT32 nor TYPE_FP32")
            for name in sorted(unknown):
                yield at(f"the config has no tensor {name!r}")
