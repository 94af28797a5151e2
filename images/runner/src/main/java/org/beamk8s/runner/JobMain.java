package org.beamk8s.runner;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import org.apache.beam.model.pipeline.v1.RunnerApi;
import org.apache.beam.runners.flink.FlinkBatchPortablePipelineTranslator;
import org.apache.beam.runners.flink.FlinkPipelineOptions;
import org.apache.beam.runners.flink.FlinkPortablePipelineTranslator;
import org.apache.beam.runners.flink.FlinkStreamingPortablePipelineTranslator;
import org.apache.beam.runners.flink.FlinkStreamingPortablePipelineTranslator.StreamingTranslationContext;
import org.apache.beam.runners.fnexecution.provisioning.JobInfo;
import org.apache.beam.runners.fnexecution.translation.PipelineTranslatorUtils;
import org.apache.beam.sdk.io.FileSystems;
import org.apache.beam.sdk.metrics.MetricsEnvironment;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.util.construction.PipelineOptionsTranslation;
import org.apache.beam.vendor.grpc.v1p60p1.com.google.protobuf.Struct;
import org.apache.beam.vendor.grpc.v1p60p1.com.google.protobuf.util.JsonFormat;

/**
 * Translates a portable pipeline and runs it on the cluster that calls this main: in application
 * mode as the job class, in a session cluster as the entry class of an empty jar.
 *
 * <p><b>Two sets of options.</b> Beam's own main gives one options object to the translator and to
 * {@link JobInfo}. What the translator gets is serialised into every operator, into Flink's global
 * job parameters (the web UI) and, through {@code CoderTypeSerializer}'s snapshots, into every
 * checkpoint and savepoint. So the translator here gets only {@code --translator-options}, the few
 * options that Beam's translation and operators read, and the Python harness gets all the user's
 * options, which may hold secrets, through {@code JobInfo}.
 *
 * <p><b>Where JobInfo goes.</b> It is a field of the executable-stage operators. Operators are
 * serialised into the job graph, and a cluster with high availability writes the job graph to its
 * storage; it travels to the TaskManagers too. It is part of no checkpoint: operator state holds
 * values and serializers, never operators. Therefore {@code --options-reference FILE} puts only the
 * <i>name</i> of the options file into {@code JobInfo} ({@link OptionsFileJobInfo}); each
 * TaskManager reads the file itself, so that it must be mounted there under the same name. With
 * {@code --options FILE} the options themselves are in {@code JobInfo}, and so in the job graph.
 */
public final class JobMain {
  private static final Set<String> ARGUMENTS =
      Set.of("--pipeline", "--options", "--options-reference", "--translator-options");

  private JobMain() {}

  public static void main(String[] args) throws Exception {
    try {
      run(arguments(args));
    } catch (Exception | Error e) {
      // The entry point reports a failed main in one line of its log; the reason is wanted whole.
      e.printStackTrace();
      throw e;
    }
  }

  private static void run(Map<String, String> arguments) throws Exception {
    FileSystems.setDefaultPipelineOptions(PipelineOptionsFactory.create());
    MetricsEnvironment.setMetricsSupported(false); // this process runs no DoFn
    RunnerApi.Pipeline pipeline =
        RunnerApi.Pipeline.parseFrom(Files.readAllBytes(file(arguments, "--pipeline")));
    FlinkPipelineOptions options =
        translatorOptions(readOptions(file(arguments, "--translator-options")));

    boolean streaming =
        options.isStreaming() || PipelineTranslatorUtils.hasUnboundedPCollections(pipeline);
    options.setStreaming(streaming);
    JobInfo job = jobInfo(options.getJobName(), arguments);
    if (streaming) {
      executeStreaming(pipeline, job, options);
    } else {
      executeBatch(pipeline, job, options);
    }
  }

  private static void executeStreaming(
      RunnerApi.Pipeline pipeline, JobInfo job, FlinkPipelineOptions options) throws Exception {
    FlinkStreamingPortablePipelineTranslator translator =
        new FlinkStreamingPortablePipelineTranslator(KafkaTransforms.streamingTranslations());
    StreamingTranslationContext context =
        translator.createTranslationContext(job, options, null, List.of());
    TerminalStages terminal = new TerminalStages(translator.prepareForTranslation(pipeline));
    FlinkPortablePipelineTranslator.Executor executor =
        translator.translate(context, terminal.pipeline());
    terminal.register(context);
    BeamOperators.mend(context.getExecutionEnvironment());
    executor.execute(options.getJobName());
  }

  private static void executeBatch(
      RunnerApi.Pipeline pipeline, JobInfo job, FlinkPipelineOptions options) throws Exception {
    FlinkBatchPortablePipelineTranslator translator =
        FlinkBatchPortablePipelineTranslator.createTranslator();
    translator
        .translate(
            translator.createTranslationContext(job, options, null, List.of()),
            translator.prepareForTranslation(KafkaTransforms.expanded(pipeline)))
        .execute(options.getJobName());
  }

  /**
   * The options exactly as Python wrote them: a round trip through Java's {@code PipelineOptions}
   * would rename some ({@code a_1} to {@code a1}) and add nulls.
   */
  private static JobInfo jobInfo(String jobName, Map<String, String> arguments) throws Exception {
    String id = jobName + "_" + UUID.randomUUID();
    if (arguments.containsKey("--options-reference")) {
      return new OptionsFileJobInfo(id, jobName, file(arguments, "--options-reference").toString());
    }
    return JobInfo.create(id, jobName, "", readOptions(file(arguments, "--options")));
  }

  private static FlinkPipelineOptions translatorOptions(Struct struct) {
    FlinkPipelineOptions options =
        PipelineOptionsTranslation.fromProto(struct).as(FlinkPipelineOptions.class);
    options.setFlinkMaster("[auto]"); // the cluster this main runs in
    return options;
  }

  static Struct readOptions(Path file) throws java.io.IOException {
    Struct.Builder struct = Struct.newBuilder();
    JsonFormat.parser().merge(Files.readString(file, StandardCharsets.UTF_8), struct);
    return struct.build();
  }

  private static Map<String, String> arguments(String[] args) {
    Map<String, String> arguments = new HashMap<>();
    for (int i = 0; i < args.length; i += 2) {
      if (!ARGUMENTS.contains(args[i]) || i + 1 == args.length) {
        throw new IllegalArgumentException(
            "expected NAME VALUE pairs of " + ARGUMENTS + ", got " + args[i]);
      }
      arguments.put(args[i], args[i + 1]);
    }
    return arguments;
  }

  private static Path file(Map<String, String> arguments, String name) {
    String value = arguments.get(name);
    if (value == null) {
      throw new IllegalArgumentException("missing argument " + name);
    }
    return Path.of(value);
  }
}
