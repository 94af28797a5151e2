package org.beamk8s.runner;

import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateRequest;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateResponse;
import org.junit.Test;

public class StateGateTest {
  private static final StateRequest REQUEST = StateRequest.getDefaultInstance();

  @Test
  public void whoAsksTooLateGetsNoAnswerAndReachesNoState() throws Exception {
    AtomicBoolean asked = new AtomicBoolean();
    StateGate gate =
        new StateGate(
            request -> {
              asked.set(true);
              return CompletableFuture.completedFuture(StateResponse.newBuilder());
            });
    assertTrue(gate.handle(REQUEST).toCompletableFuture().isDone());
    assertTrue(asked.getAndSet(false));
    gate.close();
    assertFalse(gate.handle(REQUEST).toCompletableFuture().isDone());
    assertFalse(asked.get());
  }

  @Test
  public void itIsNotShutWhileAnAnswerIsBeingMade() throws Exception {
    CountDownLatch begun = new CountDownLatch(1);
    CountDownLatch goOn = new CountDownLatch(1);
    AtomicBoolean shut = new AtomicBoolean();
    AtomicBoolean shutMeanwhile = new AtomicBoolean();
    StateGate gate =
        new StateGate(
            request -> {
              begun.countDown();
              goOn.await();
              shutMeanwhile.set(shut.get());
              return new CompletableFuture<>();
            });
    Thread harness = new Thread(() -> handle(gate));
    harness.start();
    begun.await();
    Thread canceller =
        new Thread(
            () -> {
              gate.close();
              shut.set(true);
            });
    canceller.start();
    while (canceller.getState() != Thread.State.WAITING) {
      Thread.onSpinWait();
    }
    goOn.countDown();
    harness.join();
    canceller.join();
    assertTrue(shut.get());
    assertFalse(shutMeanwhile.get());
  }

  private static void handle(StateGate gate) {
    try {
      gate.handle(REQUEST);
    } catch (Exception e) {
      throw new AssertionError(e);
    }
  }
}
