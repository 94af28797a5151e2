package org.beamk8s.runner;

import java.io.DataInputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.OptionalInt;
import org.apache.beam.vendor.guava.v32_1_2_jre.com.google.common.hash.Hashing;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.runtime.checkpoint.Checkpoints;
import org.apache.flink.runtime.checkpoint.OperatorState;
import org.apache.flink.runtime.checkpoint.metadata.CheckpointMetadata;
import org.apache.flink.runtime.jobgraph.OperatorID;
import org.apache.flink.runtime.jobgraph.SavepointRestoreSettings;
import org.apache.flink.runtime.state.filesystem.AbstractFsCheckpointStorageAccess;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The max parallelism that an operator has in the state which the job starts from.
 *
 * <p>Flink refuses state for an operator whose max parallelism was set to another number. That of a
 * source is its partition count, and topics grow.
 */
final class RestoredParallelism {
  private static final Logger LOG = LoggerFactory.getLogger(RestoredParallelism.class);

  private RestoredParallelism() {}

  /** Empty if the job starts without state, or has none of the operator with this uid. */
  static OptionalInt of(ReadableConfig configuration, String uid) {
    String path = SavepointRestoreSettings.fromConfiguration(configuration).getRestorePath();
    if (path == null) {
      return OptionalInt.empty();
    }
    OperatorID operator = operatorId(uid);
    try {
      for (OperatorState state : metadata(path).getOperatorStates()) {
        if (state.getOperatorID().equals(operator)) {
          LOG.info("{} keeps its max parallelism of {}: {}", uid, state.getMaxParallelism(), path);
          return OptionalInt.of(state.getMaxParallelism());
        }
      }
    } catch (FileNotFoundException e) {
      // Flink's affair: it fails, unless the path is a placeholder beside a checkpoint of its own
      // records, as the Kubernetes operator does it.
      LOG.warn("No state is found to start from: {}", e.getMessage());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return OptionalInt.empty();
  }

  private static CheckpointMetadata metadata(String path) throws IOException {
    try (DataInputStream input =
        new DataInputStream(
            AbstractFsCheckpointStorageAccess.resolveCheckpointPointer(path)
                .getMetadataHandle()
                .openInputStream())) {
      return Checkpoints.loadCheckpointMetadata(
          input, RestoredParallelism.class.getClassLoader(), path);
    }
  }

  /** As Flink's StreamGraphHasherV2 makes it. */
  private static OperatorID operatorId(String uid) {
    return new OperatorID(
        Hashing.murmur3_128(0).hashString(uid, StandardCharsets.UTF_8).asBytes());
  }
}
