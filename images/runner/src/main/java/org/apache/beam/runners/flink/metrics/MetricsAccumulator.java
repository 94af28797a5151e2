package org.apache.beam.runners.flink.metrics;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.beam.model.pipeline.v1.MetricsApi.MonitoringInfo;
import org.apache.beam.runners.core.metrics.MetricsContainerStepMap;
import org.apache.beam.vendor.grpc.v1p60p1.com.google.protobuf.InvalidProtocolBufferException;
import org.apache.beam.vendor.grpc.v1p60p1.com.google.protobuf.util.JsonFormat;
import org.apache.flink.api.common.accumulators.Accumulator;
import org.apache.flink.api.common.accumulators.SimpleAccumulator;

/**
 * Takes the place of Beam's class of this name (the original is left out of the jar): the
 * accumulator of a task's metrics, whose value reads as a JSON array of MonitoringInfos.
 *
 * <p>Flink's REST API shows an accumulator as {@code getLocalValue().toString()}. The value here is
 * built anew each time from the containers that the operators go on updating; their maps and cells
 * are concurrent, so a heartbeat may serialise them meanwhile.
 */
public class MetricsAccumulator implements SimpleAccumulator<MetricsContainerStepMap> {
  private static final long serialVersionUID = 1L;

  private final List<MetricsContainerStepMap> watched = new CopyOnWriteArrayList<>();

  /** From now on the value includes what {@code container} holds at the time it is asked for. */
  void watch(MetricsContainerStepMap container) {
    watched.add(container);
  }

  @Override
  public void add(MetricsContainerStepMap value) {
    MetricsContainerStepMap copy = new MetricsContainerStepMap();
    copy.updateAll(value);
    watched.add(copy);
  }

  @Override
  public MetricsContainerStepMap getLocalValue() {
    MetricsContainerStepMap total = new MonitoringInfosAsJson();
    watched.forEach(total::updateAll);
    return total;
  }

  @Override
  public void resetLocal() {
    watched.clear();
  }

  @Override
  public void merge(Accumulator<MetricsContainerStepMap, MetricsContainerStepMap> other) {
    MetricsContainerStepMap total = getLocalValue();
    total.updateAll(other.getLocalValue());
    watched.clear();
    watched.add(total); // the JobManager merges one accumulator a task: keep one map, not a list
  }

  @Override
  @SuppressWarnings("MethodDoesntCallSuperMethod")
  public MetricsAccumulator clone() {
    MetricsAccumulator copy = new MetricsAccumulator();
    copy.watched.add(getLocalValue());
    return copy;
  }

  @Override
  public String toString() {
    return getLocalValue().toString();
  }

  /** Prints {@code [MonitoringInfo, ...]} in proto3 JSON, on one line. */
  private static final class MonitoringInfosAsJson extends MetricsContainerStepMap {
    private static final long serialVersionUID = 1L;

    @Override
    public String toString() {
      JsonFormat.Printer printer = JsonFormat.printer().omittingInsignificantWhitespace();
      List<String> infos = new ArrayList<>();
      try {
        for (MonitoringInfo info : getMonitoringInfos()) {
          infos.add(printer.print(info));
        }
      } catch (InvalidProtocolBufferException e) {
        throw new IllegalStateException(e);
      }
      return "[" + String.join(",", infos) + "]";
    }
  }
}
