package org.apache.beam.runners.flink.metrics;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.Base64;
import org.apache.beam.runners.core.metrics.MetricsContainerStepMap;
import org.apache.beam.sdk.metrics.MetricName;
import org.apache.flink.util.InstantiationUtil;
import org.junit.Test;

public class MetricsAccumulatorTest {
  private static final MetricName NAME = MetricName.named("space", "name");

  private final MetricsContainerStepMap container = new MetricsContainerStepMap();
  private final MetricsAccumulator accumulator = new MetricsAccumulator();

  @Test
  public void theValueFollowsAWatchedContainer() throws Exception {
    accumulator.watch(container);
    assertEquals("[]", accumulator.getLocalValue().toString());
    count(container, 5);
    assertEquals(5, counter(accumulator));
    count(container, 6);
    assertEquals(11, counter(accumulator));
  }

  @Test
  public void theValueIsAJsonArrayOfMonitoringInfos() throws Exception {
    accumulator.watch(container);
    count(container, 5);
    container.getContainer("step").getDistribution(NAME).update(7);
    container.getContainer("step").getGauge(NAME).set(9);
    container.getContainer("step").getStringSet(NAME).add("s");
    JsonNode infos = new ObjectMapper().readTree(accumulator.getLocalValue().toString());
    assertEquals(4, infos.size());
    for (JsonNode info : infos) {
      assertTrue(info.toString(), info.get("urn").asText().startsWith("beam:metric:user:"));
      assertEquals("space", info.get("labels").get("NAMESPACE").asText());
      assertEquals("name", info.get("labels").get("NAME").asText());
      assertEquals("step", info.get("labels").get("PTRANSFORM").asText());
      assertTrue(Base64.getDecoder().decode(info.get("payload").asText()).length > 0);
    }
  }

  /** The way to the JobManager: heartbeats serialise, it clones the first and merges the rest. */
  @Test
  public void theValueSurvivesSerialisationCloningAndMerging() throws Exception {
    accumulator.watch(container);
    count(container, 5);
    MetricsAccumulator received = InstantiationUtil.clone(accumulator);
    MetricsAccumulator merged = received.clone();
    merged.merge(received);
    merged.merge(received);
    assertEquals(15, counter(merged));
    assertEquals(5, counter(received));
  }

  private static void count(MetricsContainerStepMap container, long n) {
    container.getContainer("step").getCounter(NAME).inc(n);
  }

  private static int counter(MetricsAccumulator accumulator) throws Exception {
    JsonNode infos = new ObjectMapper().readTree(accumulator.getLocalValue().toString());
    return Base64.getDecoder().decode(infos.get(0).get("payload").asText())[0]; // a varint < 128
  }
}
