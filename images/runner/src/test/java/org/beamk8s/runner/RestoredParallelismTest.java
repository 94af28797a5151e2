package org.beamk8s.runner;

import static org.junit.Assert.assertEquals;

import java.io.DataOutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.OptionalInt;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.checkpoint.Checkpoints;
import org.apache.flink.runtime.checkpoint.OperatorState;
import org.apache.flink.runtime.checkpoint.metadata.CheckpointMetadata;
import org.apache.flink.runtime.jobgraph.JobVertex;
import org.apache.flink.runtime.jobgraph.OperatorID;
import org.apache.flink.runtime.jobgraph.SavepointRestoreSettings;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.DiscardingSink;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

public class RestoredParallelismTest {
  @Rule public final TemporaryFolder folder = new TemporaryFolder();

  @Test
  public void anOperatorKeepsTheMaxParallelismOfItsState() throws Exception {
    Path savepoint = folder.newFolder("savepoint").toPath();
    write(savepoint.resolve("_metadata"), new OperatorState(sourceWithUid("Read/ä"), 2, 3));
    assertEquals(OptionalInt.of(3), maxParallelism(savepoint.toUri().toString(), "Read/ä"));
    assertEquals(OptionalInt.empty(), maxParallelism(savepoint.toUri().toString(), "Another"));
  }

  @Test
  public void withoutStateThereIsNone() {
    assertEquals(OptionalInt.empty(), RestoredParallelism.of(new Configuration(), "Read"));
  }

  /** The Kubernetes operator's, where a job goes on from what high availability recorded. */
  @Test
  public void aPlaceholderIsNoState() {
    assertEquals(
        OptionalInt.empty(), maxParallelism("KUBERNETES_OPERATOR_LAST_STATE_DUMMY_SP_PATH", "Read"));
  }

  private static OptionalInt maxParallelism(String path, String uid) {
    Configuration configuration = new Configuration();
    SavepointRestoreSettings.toConfiguration(
        SavepointRestoreSettings.forPath(path), configuration);
    return RestoredParallelism.of(configuration, uid);
  }

  private static void write(Path file, OperatorState state) throws Exception {
    try (DataOutputStream output = new DataOutputStream(Files.newOutputStream(file))) {
      Checkpoints.storeCheckpointMetadata(
          new CheckpointMetadata(1, List.of(state), List.of()), output);
    }
  }

  /** The id that Flink itself gives a source of this uid. */
  private static OperatorID sourceWithUid(String uid) {
    StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
    environment.fromSequence(0, 1).uid(uid).addSink(new DiscardingSink<>());
    for (JobVertex vertex : environment.getStreamGraph().getJobGraph().getVertices()) {
      if (vertex.isInputVertex()) {
        return vertex.getOperatorIDs().get(vertex.getOperatorIDs().size() - 1)
            .getGeneratedOperatorID();
      }
    }
    throw new AssertionError();
  }
}
