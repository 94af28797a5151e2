package org.beamk8s.runner.kafka;

import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;

/**
 * Wakes a reader when time alone may change its watermark. Its methods are called by the task
 * thread only.
 */
final class WakeUpTimer implements AutoCloseable {
  /** As often as Flink's own periodic watermarks (pipeline.auto-watermark-interval). */
  static final long INTERVAL_MS = 200;

  private ScheduledExecutorService executor;
  private volatile CompletableFuture<Void> wakeUp = CompletableFuture.completedFuture(null);
  private CompletableFuture<Void> available;

  /** Completes when {@code future} does, or after the interval. */
  CompletableFuture<Void> orElseTimer(CompletableFuture<Void> future) {
    if (wakeUp.isDone()) {
      wakeUp = new CompletableFuture<>();
      executor().schedule(this::wakeUp, INTERVAL_MS, TimeUnit.MILLISECONDS);
    }
    if (available != future) {
      // Once for each future: an idle stream's may stay the same for long.
      available = future;
      future.thenRun(this::wakeUp);
    }
    // It may have completed just before the new wake-up took the place of the one it woke.
    return future.isDone() ? future : wakeUp;
  }

  void wakeUp() {
    wakeUp.complete(null);
  }

  /** No thread before the first need of it. */
  private ScheduledExecutorService executor() {
    if (executor == null) {
      executor =
          Executors.newSingleThreadScheduledExecutor(
              task -> {
                Thread thread = new Thread(task, "kafka-frame-reader-timer");
                thread.setDaemon(true);
                return thread;
              });
    }
    return executor;
  }

  @Override
  public void close() {
    if (executor != null) {
      executor.shutdownNow();
    }
  }
}
