package org.beamk8s.runner;

import java.util.ArrayList;
import java.util.List;
import org.apache.beam.model.pipeline.v1.RunnerApi;
import org.apache.beam.model.pipeline.v1.RunnerApi.ExecutableStagePayload;
import org.apache.beam.runners.flink.FlinkStreamingPortablePipelineTranslator.StreamingTranslationContext;
import org.apache.beam.sdk.util.construction.PTransformTranslation;
import org.apache.beam.sdk.util.construction.graph.ExecutableStage;
import org.apache.beam.vendor.grpc.v1p60p1.com.google.protobuf.InvalidProtocolBufferException;

/**
 * Makes a stream run the last steps that have both keyed state (or timers, or a splittable DoFn)
 * and a side input.
 *
 * <p>Beam 2.62 builds Flink's operator for such a stage by hand and forgets to register it. Flink
 * finds it all the same where another step reads its output; a stage that nobody reads is silently
 * not part of the job, which ends as if it had run. So such a stage gets an output, one of its own
 * collections, and what has been built for that is registered.
 */
final class TerminalStages {
  private final RunnerApi.Pipeline pipeline;
  private final List<String> outputs = new ArrayList<>();

  /** Takes the pipeline as it is fused for Flink. */
  TerminalStages(RunnerApi.Pipeline fused) {
    RunnerApi.Pipeline.Builder result = fused.toBuilder();
    fused
        .getComponents()
        .getTransformsMap()
        .forEach(
            (id, transform) -> {
              if (transform.getSpec().getUrn().equals(ExecutableStage.URN)
                  && transform.getOutputsCount() == 0) {
                ExecutableStagePayload stage = payload(transform);
                if (isForgotten(stage)) {
                  String output = anyOutput(stage);
                  outputs.add(output);
                  result
                      .getComponentsBuilder()
                      .putTransforms(id, withOutput(transform, stage, output));
                }
              }
            });
    pipeline = result.build();
  }

  /** The pipeline to translate. */
  RunnerApi.Pipeline pipeline() {
    return pipeline;
  }

  /** To be called when it is translated. */
  void register(StreamingTranslationContext context) {
    for (String output : outputs) {
      context
          .getExecutionEnvironment()
          .addOperator(context.getDataStreamOrThrow(output).getTransformation());
    }
  }

  private static boolean isForgotten(ExecutableStagePayload stage) {
    return stage.getSideInputsCount() > 0
        && (stage.getUserStatesCount() > 0
            || stage.getTimersCount() > 0
            || stage.getComponents().getTransformsMap().values().stream()
                .anyMatch(
                    each ->
                        each.getSpec()
                            .getUrn()
                            .equals(
                                PTransformTranslation
                                    .SPLITTABLE_PROCESS_SIZED_ELEMENTS_AND_RESTRICTIONS_URN)));
  }

  private static String anyOutput(ExecutableStagePayload stage) {
    return stage.getTransformsList().stream()
        .flatMap(
            id -> stage.getComponents().getTransformsOrThrow(id).getOutputsMap().values().stream())
        .findFirst()
        .orElseThrow(() -> new IllegalStateException("a stage without any collection: " + stage));
  }

  private static RunnerApi.PTransform withOutput(
      RunnerApi.PTransform transform, ExecutableStagePayload stage, String output) {
    RunnerApi.PTransform.Builder result = transform.toBuilder().putOutputs(output, output);
    result
        .getSpecBuilder()
        .setPayload(stage.toBuilder().addOutputs(output).build().toByteString());
    return result.build();
  }

  private static ExecutableStagePayload payload(RunnerApi.PTransform transform) {
    try {
      return ExecutableStagePayload.parseFrom(transform.getSpec().getPayload());
    } catch (InvalidProtocolBufferException e) {
      throw new IllegalArgumentException(e);
    }
  }
}
