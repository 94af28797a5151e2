package org.apache.beam.runners.flink.metrics;

import java.lang.reflect.Proxy;
import org.apache.beam.runners.core.metrics.MetricsContainerStepMap;
import org.apache.flink.api.common.accumulators.Accumulator;
import org.apache.flink.api.common.functions.RuntimeContext;
import org.apache.flink.metrics.MetricGroup;
import org.beamk8s.runner.ContainerCpu;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Takes the place of Beam's class of this name (the original is left out of the jar): an operator's
 * metrics are in the job's accumulator from its start and not only after its end, so that a
 * streaming job that never ends shows its counters too. Beam avoids that for its cost: with each
 * heartbeat (10 s by default) a TaskManager serialises the metrics of its tasks once.
 *
 * <p>The metrics go to Flink's own metric groups as well, as in the original, but for the backlogs of
 * partitions: several subtasks may unpack a partition's frames, and all but one would tell an old
 * value, while the source tells the right one. The container's CPU time goes with them, since every
 * TaskManager at work has such an operator.
 */
public class FlinkMetricContainer extends FlinkMetricContainerBase {
  public static final String ACCUMULATOR_NAME = "__metricscontainers";

  private static final String BACKLOGS = "beam_k8s.kafka.backlog_";
  private static final Logger LOG = LoggerFactory.getLogger(FlinkMetricContainer.class);

  public FlinkMetricContainer(RuntimeContext context) {
    super(withoutBacklogs(context.getMetricGroup()));
    ContainerCpu.register(context.getMetricGroup());
    try {
      // One accumulator a task: the operators chained in it share it.
      Accumulator<MetricsContainerStepMap, MetricsContainerStepMap> accumulator =
          context.getAccumulator(ACCUMULATOR_NAME);
      if (accumulator == null) {
        accumulator = new MetricsAccumulator();
        context.addAccumulator(ACCUMULATOR_NAME, accumulator);
      }
      ((MetricsAccumulator) accumulator).watch(metricsContainers);
    } catch (UnsupportedOperationException e) {
      LOG.debug("No accumulators in this environment", e);
    }
  }

  private static MetricGroup withoutBacklogs(MetricGroup group) {
    return (MetricGroup)
        Proxy.newProxyInstance(
            FlinkMetricContainer.class.getClassLoader(),
            new Class<?>[] {MetricGroup.class},
            (proxy, method, arguments) ->
                method.getName().equals("gauge")
                        && String.valueOf(arguments[0]).startsWith(BACKLOGS)
                    ? arguments[1]
                    : method.invoke(group, arguments));
  }

  /** Called at an operator's end; nothing is left to do, the accumulator watches the container. */
  public void registerMetricsForPipelineResult() {}
}
