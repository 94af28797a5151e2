"""Combiner lifting for streaming jobs: a CombinePerKey combines in the bundle before the shuffle, as it does in batch.

Beam's portable runners lift in batch only, and their rule of what may be lifted is for batch: triggers that look at the
processing time would see other elements than they should. Here a step is lifted only where nobody can tell: each window
gives one result, when the watermark passes its end. What is shuffled is then one accumulator a bundle, key and window
instead of every record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["lifted"]

_PRECOMBINE = common_urns.combine_components.COMBINE_PER_KEY_PRECOMBINE.urn
_MERGE = common_urns.combine_components.COMBINE_PER_KEY_MERGE_ACCUMULATORS.urn
_EXTRACT = common_urns.combine_components.COMBINE_PER_KEY_EXTRACT_OUTPUTS.urn


def lifted(pipeline: Any) -> Any:
    """A copy of the pipeline proto in which each CombinePerKey is lifted that can be.

    The shuffle of a lifted step has another name than that of one that is not: Flink keeps its state by name, and
    would else take records from an older savepoint for accumulators.
    """
    copy = beam_runner_api_pb2.Pipeline()
    copy.CopyFrom(pipeline)
    components = copy.components
    for transform_id in [each for each in components.transforms if _is_liftable(each, components)]:
        _lift(transform_id, components)
    return copy


def _is_liftable(transform_id: str, components: Any) -> bool:
    transform = components.transforms[transform_id]
    if transform.spec.urn != common_urns.composites.COMBINE_PER_KEY.urn or not transform.subtransforms:
        return False
    if len(transform.inputs) != 1 or len(transform.outputs) != 1:
        return False  # side inputs
    if _payload(transform).combine_fn.urn != python_urns.PICKLED_COMBINE_FN:
        return False  # of another language
    source = _input(transform, components)
    strategy = components.windowing_strategies[source.windowing_strategy_id]
    return bool(
        components.coders[source.coder_id].spec.urn == common_urns.coders.KV.urn
        and strategy.trigger.WhichOneof("trigger") == "default"
        and strategy.allowed_lateness == 0
        and strategy.merge_status == beam_runner_api_pb2.MergeStatus.NON_MERGING
    )


def _lift(transform_id: str, components: Any) -> None:
    transform = components.transforms[transform_id]
    payload = transform.spec.payload
    accumulator = _payload(transform).accumulator_coder_id
    transform.ClearField("spec")  # a runner that knows it would not look at what is below
    (source_id,), (result_id,) = transform.inputs.values(), transform.outputs.values()
    source, result = components.pcollections[source_id], components.pcollections[result_id]
    for sub in list(_below(transform, components)):
        for output in components.transforms[sub].outputs.values():
            if output != result_id:
                components.pcollections.pop(output, None)
        del components.transforms[sub]
    del transform.subtransforms[:]

    def coder(name: str, urn: str, *parts: str) -> str:
        found = f"{transform_id}/{name}"
        components.coders[found].spec.urn = urn
        components.coders[found].component_coder_ids.extend(parts)
        return found

    def collection(name: str, coder_id: str, like: Any) -> str:
        found = f"{transform_id}/{name}.out"
        components.pcollections[found].CopyFrom(like)
        components.pcollections[found].unique_name = f"{transform.unique_name}/{name}.out"
        components.pcollections[found].coder_id = coder_id
        return found

    def step(name: str, urn: str, input_id: str, output_id: str) -> None:
        found = f"{transform_id}/{name}"
        transform.subtransforms.append(found)
        components.transforms[found].unique_name = f"{transform.unique_name}/{name}"
        components.transforms[found].spec.urn = urn
        components.transforms[found].inputs["in"] = input_id
        components.transforms[found].outputs["out"] = output_id
        if urn != common_urns.primitives.GROUP_BY_KEY.urn:
            components.transforms[found].spec.payload = payload
            components.transforms[found].environment_id = transform.environment_id

    key = components.coders[source.coder_id].component_coder_ids[0]
    pair = coder("Accumulator", common_urns.coders.KV.urn, key, accumulator)
    accumulators = coder("Accumulators", common_urns.coders.ITERABLE.urn, accumulator)
    group = coder("Group", common_urns.coders.KV.urn, key, accumulators)
    combined = collection("Precombine", pair, source)
    grouped = collection("Group", group, result)
    merged = collection("Merge", pair, result)
    step("Precombine", _PRECOMBINE, source_id, combined)
    step("Group", common_urns.primitives.GROUP_BY_KEY.urn, combined, grouped)
    step("Merge", _MERGE, grouped, merged)
    step("ExtractOutputs", _EXTRACT, merged, result_id)


def _below(transform: Any, components: Any) -> Iterator[str]:
    for sub in transform.subtransforms:
        yield from _below(components.transforms[sub], components)
        yield sub


def _payload(transform: Any) -> Any:
    return beam_runner_api_pb2.CombinePayload.FromString(transform.spec.payload)


def _input(transform: Any, components: Any) -> Any:
    (source,) = transform.inputs.values()
    return components.pcollections[source]
