package org.apache.flink.connector.kafka.sink;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import org.apache.flink.api.connector.sink2.Committer;
import org.beamk8s.runner.kafka.KafkaWriteSpec;
import org.beamk8s.runner.kafka.WriteFailure;

/**
 * Ends the job when a transaction of a completed checkpoint cannot be committed any more. Flink's
 * {@link KafkaCommitter} writes that to its log, and goes on without the records.
 */
final class FaithfulCommitter implements Committer<KafkaCommittable> {
  private final Committer<KafkaCommittable> flinks;
  private final KafkaWriteSpec spec;

  FaithfulCommitter(Committer<KafkaCommittable> flinks, KafkaWriteSpec spec) {
    this.flinks = flinks;
    this.spec = spec;
  }

  @Override
  public void commit(Collection<CommitRequest<KafkaCommittable>> requests)
      throws IOException, InterruptedException {
    // The others are committed first: what they hold is not lost too.
    List<WriteFailure> lost = new ArrayList<>();
    List<CommitRequest<KafkaCommittable>> watched = new ArrayList<>();
    requests.forEach(request -> watched.add(new Watched(request, lost)));
    flinks.commit(watched);
    if (!lost.isEmpty()) {
      throw lost.get(0);
    }
  }

  @Override
  public void close() throws Exception {
    flinks.close();
  }

  private final class Watched implements CommitRequest<KafkaCommittable> {
    private final CommitRequest<KafkaCommittable> request;
    private final List<WriteFailure> lost;

    Watched(CommitRequest<KafkaCommittable> request, List<WriteFailure> lost) {
      this.request = request;
      this.lost = lost;
    }

    @Override
    public KafkaCommittable getCommittable() {
      return request.getCommittable();
    }

    @Override
    public int getNumberOfRetries() {
      return request.getNumberOfRetries();
    }

    @Override
    public void signalFailedWithKnownReason(Throwable reason) {
      lost.add(WriteFailure.lost(getCommittable().getTransactionalId(), reason, spec));
    }

    /** Flink restarts the job, and commits again. */
    @Override
    public void signalFailedWithUnknownReason(Throwable reason) {
      try {
        WriteFailure.throwIfFinal(reason, spec);
      } catch (WriteFailure failure) {
        lost.add(failure);
        return;
      }
      request.signalFailedWithUnknownReason(reason);
    }

    @Override
    public void retryLater() {
      request.retryLater();
    }

    @Override
    public void updateAndRetryLater(KafkaCommittable committable) {
      request.updateAndRetryLater(committable);
    }

    @Override
    public void signalAlreadyCommitted() {
      request.signalAlreadyCommitted();
    }
  }
}
