package org.beamk8s.runner;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.metrics.Gauge;
import org.apache.flink.metrics.MetricGroup;

/**
 * CPU time of the container that this JVM runs in, hence of JVM and Python workers together: Flink's
 * own figure is the JVM's alone. Read from the control groups of Linux, which a container sees with
 * itself as their root (kernel documentation, admin-guide/cgroup-v2 and cgroup-v1/cpuacct).
 */
public final class ContainerCpu implements Gauge<Double> {
  /** Name of the metric, in seconds since the container's start; NaN where nobody tells it. */
  public static final String METRIC = "containerCpuSeconds";

  /**
   * Name of another, the time [s] at which Flink asked for both: who asks Flink is told of figures
   * that are up to {@code metrics.fetcher.update-interval} old.
   */
  public static final String READ_AT = "containerCpuReadAt";

  private static final Path ROOT = Path.of("/sys/fs/cgroup");
  private static final String VERSION_2 = "usage_usec ";

  private final Path root;

  ContainerCpu(Path root) {
    this.root = root;
  }

  /** Tells both in a metric group. */
  public static void register(MetricGroup group) {
    group.gauge(METRIC, new ContainerCpu(ROOT));
    group.gauge(READ_AT, () -> System.nanoTime() / 1e9);
  }

  @Override
  public Double getValue() {
    try {
      Path stat = root.resolve("cpu.stat");
      if (Files.exists(stat)) {
        for (String line : Files.readAllLines(stat)) {
          if (line.startsWith(VERSION_2)) {
            return Long.parseLong(line.substring(VERSION_2.length()).trim()) / 1e6;
          }
        }
      }
      return Long.parseLong(Files.readString(root.resolve("cpuacct/cpuacct.usage")).trim()) / 1e9;
    } catch (IOException | NumberFormatException e) {
      return Double.NaN;
    }
  }
}
