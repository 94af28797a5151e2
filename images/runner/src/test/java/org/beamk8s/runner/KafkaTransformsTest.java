package org.beamk8s.runner;

import static org.junit.Assert.assertEquals;

import org.apache.flink.configuration.Configuration;
import org.junit.Test;

public class KafkaTransformsTest {
  @Test
  public void jobsOfOneNameInTwoNamespacesHaveTransactionsOfTheirOwn() {
    Configuration here = new Configuration();
    assertEquals("j/Write", KafkaTransforms.transactionalIdPrefix(here, "j", "Write"));
    here.setString("kubernetes.namespace", "team-a");
    assertEquals("team-a/j/Write", KafkaTransforms.transactionalIdPrefix(here, "j", "Write"));
  }
}
