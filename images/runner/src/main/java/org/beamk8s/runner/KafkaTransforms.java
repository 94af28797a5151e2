package org.beamk8s.runner;

import java.util.Map;
import org.apache.beam.model.pipeline.v1.RunnerApi;
import org.apache.beam.runners.flink.FlinkPipelineOptions;
import org.apache.beam.runners.flink.FlinkStreamingPortablePipelineTranslator.PTransformTranslator;
import org.apache.beam.runners.flink.FlinkStreamingPortablePipelineTranslator.StreamingTranslationContext;
import org.apache.beam.runners.flink.translation.types.CoderTypeInformation;
import org.apache.beam.sdk.coders.ByteArrayCoder;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.transforms.windowing.GlobalWindow;
import org.apache.beam.sdk.util.WindowedValue;
import org.apache.beam.sdk.util.construction.NativeTransforms;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ConfigOptions;
import org.apache.flink.configuration.JobManagerOptions;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.configuration.SchedulerExecutionMode;
import org.apache.flink.connector.kafka.sink.KafkaFrameSink;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.beamk8s.runner.kafka.KafkaFrameSource;
import org.beamk8s.runner.kafka.KafkaReadSpec;
import org.beamk8s.runner.kafka.KafkaWriteSpec;

/**
 * The two composites that Flink translates to its own Kafka connector. Every other runner, and our
 * batch translation, sees their content.
 */
public final class KafkaTransforms {
  static final String READ = "beam_k8s:transform:kafka_read:v1";
  static final String WRITE = "beam_k8s:transform:kafka_write:v1";

  /** As Flink's own option, which is in a module of its own. The operator sets it. */
  private static final ConfigOption<String> NAMESPACE =
      ConfigOptions.key("kubernetes.namespace").stringType().noDefaultValue();

  private KafkaTransforms() {}

  static Map<String, PTransformTranslator<StreamingTranslationContext>> streamingTranslations() {
    return Map.of(READ, KafkaTransforms::translateRead, WRITE, KafkaTransforms::translateWrite);
  }

  /**
   * The pipeline with our two kinds of composite made anonymous, so that their content is what
   * runs. It must be done in the pipeline, before it is fused: {@link IsKafkaTransform} is a
   * service, so it answers for every translator of the process, and a transform that it calls
   * native is never looked into.
   */
  static RunnerApi.Pipeline expanded(RunnerApi.Pipeline pipeline) {
    RunnerApi.Pipeline.Builder result = pipeline.toBuilder();
    pipeline
        .getComponents()
        .getTransformsMap()
        .forEach(
            (id, transform) -> {
              if (isKafka(transform)) {
                result
                    .getComponentsBuilder()
                    .putTransforms(id, transform.toBuilder().clearSpec().build());
              }
            });
    return result.build();
  }

  private static boolean isKafka(RunnerApi.PTransform transform) {
    String urn = transform.getSpec().getUrn();
    return urn.equals(READ) || urn.equals(WRITE);
  }

  /** Tells the fuser that no environment runs these; found as a service by its name. */
  public static final class IsKafkaTransform implements NativeTransforms.IsNativeTransform {
    @Override
    public boolean test(RunnerApi.PTransform transform) {
      return isKafka(transform);
    }
  }

  private static void translateRead(
      String id, RunnerApi.Pipeline pipeline, StreamingTranslationContext context) {
    RunnerApi.PTransform transform = pipeline.getComponents().getTransformsOrThrow(id);
    String name = transform.getUniqueName();
    KafkaReadSpec spec = KafkaReadSpec.parse(transform.getSpec().getPayload().toByteArray());
    StreamExecutionEnvironment environment = context.getExecutionEnvironment();

    SingleOutputStreamOperator<WindowedValue<byte[]>> frames =
        environment
            // noWatermarks: the reader emits them itself, see KafkaFrameReader
            .fromSource(
                new KafkaFrameSource(spec, name), WatermarkStrategy.noWatermarks(), name, frameType())
            .uid(name);
    DataStream<WindowedValue<byte[]>> output = frames;
    int maxParallelism =
        RestoredParallelism.of(environment.getConfiguration(), name).orElse(spec.maxParallelism());
    if (maxParallelism > 0) {
      // More subtasks than partitions would idle. Needs
      // pipeline.operator-chaining.chain-operators-with-different-max-parallelism=false, set by our
      // Flink configuration: else the operators chained to the source inherit its limit.
      frames.setMaxParallelism(maxParallelism);
      frames.setParallelism(Math.min(environment.getParallelism(), maxParallelism));
      if (isReactive(environment)) {
        // Flink chooses between forward and rebalance by the parallelism known now, but a reactive
        // cluster decides it later. A forward edge from fewer sources to more stages would leave
        // the other stages without work; rebalance would spread a partition's frames over all
        // stages, and its records lose their order. Rescale is one to one while both are as many,
        // else a source feeds some stages of its own. Its price: barriers do not overtake the
        // frames on this edge, as on every pointwise one.
        output = frames.rescale();
      }
    }
    context.addDataStream(transform.getOutputsMap().values().iterator().next(), output);
  }

  private static void translateWrite(
      String id, RunnerApi.Pipeline pipeline, StreamingTranslationContext context) {
    RunnerApi.PTransform transform = pipeline.getComponents().getTransformsOrThrow(id);
    String name = transform.getUniqueName();
    String prefix =
        transactionalIdPrefix(
            context.getExecutionEnvironment().getConfiguration(),
            context.getJobInfo().jobName(),
            name);
    KafkaWriteSpec spec =
        KafkaWriteSpec.parse(transform.getSpec().getPayload().toByteArray(), prefix);
    DataStream<WindowedValue<byte[]>> frames =
        context.getDataStreamOrThrow(transform.getInputsMap().values().iterator().next());
    frames.sinkTo(new KafkaFrameSink(spec)).name(name).uid(name);
  }

  /** Jobs of one name are in several namespaces, and write to one Kafka. */
  static String transactionalIdPrefix(ReadableConfig configuration, String job, String transform) {
    return configuration.getOptional(NAMESPACE).map(name -> name + "/").orElse("")
        + (job + "/" + transform);
  }

  private static boolean isReactive(StreamExecutionEnvironment environment) {
    return environment.getConfiguration().get(JobManagerOptions.SCHEDULER_MODE)
        == SchedulerExecutionMode.REACTIVE;
  }

  /** Options of their own, with copies by identity: nobody changes a frame's bytes. */
  private static TypeInformation<WindowedValue<byte[]>> frameType() {
    FlinkPipelineOptions options = PipelineOptionsFactory.as(FlinkPipelineOptions.class);
    options.setFasterCopy(true);
    return new CoderTypeInformation<>(
        WindowedValue.getFullCoder(ByteArrayCoder.of(), GlobalWindow.Coder.INSTANCE), options);
  }
}
