package org.beamk8s.runner;

import java.io.Closeable;
import java.lang.reflect.Field;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.ProcessBundleRequest.CacheToken;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateRequest;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StateResponse;
import org.apache.beam.runners.flink.translation.wrappers.streaming.DoFnOperator;
import org.apache.beam.runners.fnexecution.state.StateRequestHandler;

/**
 * Between the Python harness and a task's state: shut when the task is cancelled.
 *
 * <p>Flink then closes the state backend, while the harness is still in its bundle and asks gRPC's
 * threads for more: a heap backend says that a serializer is registered already, RocksDB reads
 * memory that is no longer its own. Who asks too late gets no answer; the harness is about to end.
 */
final class StateGate implements StateRequestHandler, Closeable {
  private static final Field HANDLER =
      BeamOperators.field(HarnessBuffer.RUNNER.getType(), "stateRequestHandler");

  private final ReadWriteLock lock = new ReentrantReadWriteLock();
  private final StateRequestHandler handler;
  private boolean shut;

  StateGate(StateRequestHandler handler) {
    this.handler = handler;
  }

  /** Puts one before the state of an operator that has opened; null if no harness asks for it. */
  static StateGate attach(DoFnOperator<?, ?> operator) {
    if (!HarnessBuffer.has(operator)) {
      return null;
    }
    try {
      Object runner = HarnessBuffer.RUNNER.get(operator);
      StateGate gate = new StateGate((StateRequestHandler) HANDLER.get(runner));
      HANDLER.set(runner, gate);
      return gate;
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    }
  }

  @Override
  public CompletionStage<StateResponse.Builder> handle(StateRequest request) throws Exception {
    lock.readLock().lock();
    try {
      return shut ? new CompletableFuture<>() : handler.handle(request);
    } finally {
      lock.readLock().unlock();
    }
  }

  @Override
  public Iterable<CacheToken> getCacheTokens() {
    return handler.getCacheTokens();
  }

  /** Waits for what is being answered. */
  @Override
  public void close() {
    lock.writeLock().lock();
    try {
      shut = true;
    } finally {
      lock.writeLock().unlock();
    }
  }
}
