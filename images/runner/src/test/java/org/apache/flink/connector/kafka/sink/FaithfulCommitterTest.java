package org.apache.flink.connector.kafka.sink;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.function.Consumer;
import org.apache.flink.api.connector.sink2.Committer;
import org.apache.flink.api.connector.sink2.Committer.CommitRequest;
import org.apache.kafka.common.errors.InvalidTxnStateException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.TransactionalIdAuthorizationException;
import org.beamk8s.runner.kafka.KafkaWriteSpec;
import org.beamk8s.runner.kafka.WriteFailure;
import org.junit.Test;

public class FaithfulCommitterTest {
  private static final KafkaWriteSpec SPEC =
      KafkaWriteSpec.parse(
          ("{\"bootstrap_servers\":\"b:1\",\"topic\":\"out\",\"properties\":{},"
                  + "\"delivery_guarantee\":\"exactly_once\",\"transactional_id_prefix\":\"p\"}")
              .getBytes(StandardCharsets.UTF_8),
          "j/w");

  private final List<String> committed = new ArrayList<>();

  /** As KafkaCommitter: one request after the other; "lost" ones are answered so. */
  private void commit(Consumer<CommitRequest<KafkaCommittable>> answer) throws Exception {
    Committer<KafkaCommittable> flinks =
        new Committer<>() {
          @Override
          public void commit(Collection<CommitRequest<KafkaCommittable>> requests) {
            for (CommitRequest<KafkaCommittable> request : requests) {
              String id = request.getCommittable().getTransactionalId();
              if (id.equals("lost")) {
                answer.accept(request);
              } else {
                committed.add(id);
              }
            }
          }

          @Override
          public void close() {}
        };
    new FaithfulCommitter(flinks, SPEC)
        .commit(List.of(new Request("a"), new Request("lost"), new Request("b")));
  }

  @Test
  public void aTransactionThatIsGoneEndsTheJobAfterTheOthersAreCommitted() {
    for (Exception gone : List.of(new ProducerFencedException("x"), new InvalidTxnStateException("x"))) {
      committed.clear();
      WriteFailure failure =
          assertThrows(
              WriteFailure.class, () -> commit(request -> request.signalFailedWithKnownReason(gone)));
      assertEquals(List.of("a", "b"), committed);
      assertTrue(failure.getMessage(), failure.getMessage().contains("topic out: records of a"));
      assertTrue(failure.getMessage(), failure.getMessage().contains("transaction lost"));
    }
  }

  @Test
  public void whatIsUnknownRestartsTheJobUnlessItIsFinal() {
    assertThrows(
        IllegalStateException.class,
        () -> commit(request -> request.signalFailedWithUnknownReason(new RuntimeException("x"))));
    Exception forbidden = new TransactionalIdAuthorizationException("x");
    assertThrows(
        WriteFailure.class,
        () -> commit(request -> request.signalFailedWithUnknownReason(forbidden)));
  }

  @Test
  public void theRestIsFlinks() throws Exception {
    commit(CommitRequest::retryLater);
    commit(CommitRequest::signalAlreadyCommitted);
    assertEquals(List.of("a", "retried", "b", "a", "already", "b"), committed);
  }

  /** As Flink's own, which is not public. */
  private final class Request implements CommitRequest<KafkaCommittable> {
    private final String id;

    Request(String id) {
      this.id = id;
    }

    @Override
    public KafkaCommittable getCommittable() {
      return new KafkaCommittable(1, (short) 0, id, null);
    }

    @Override
    public int getNumberOfRetries() {
      return 0;
    }

    @Override
    public void signalFailedWithKnownReason(Throwable reason) {}

    @Override
    public void signalFailedWithUnknownReason(Throwable reason) {
      throw new IllegalStateException(reason);
    }

    @Override
    public void retryLater() {
      committed.add("retried");
    }

    @Override
    public void updateAndRetryLater(KafkaCommittable committable) {}

    @Override
    public void signalAlreadyCommitted() {
      committed.add("already");
    }
  }
}
