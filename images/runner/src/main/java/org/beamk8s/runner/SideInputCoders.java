package org.beamk8s.runner;

import java.lang.reflect.Field;
import java.util.Collection;
import org.apache.beam.runners.flink.translation.wrappers.streaming.DoFnOperator;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.IterableLikeCoder;
import org.apache.beam.sdk.util.WindowedValue.WindowedValueCoder;
import org.apache.beam.sdk.util.construction.RunnerPCollectionView;
import org.apache.beam.sdk.values.PCollectionView;

/**
 * Lets a streaming job with side inputs take checkpoints.
 *
 * <p>An operator keeps a side input in its state as an iterable of elements, with an iterable coder
 * of the view's own coder: that must be the element's. Beam's portable translation gives the view
 * the coder of the windowed iterable instead, which no checkpoint can encode an element with; each
 * fails with a ClassCastException, and the job with them. Without checkpoints nothing is ever
 * encoded.
 */
final class SideInputCoders {
  private static final Field SIDE_INPUTS = BeamOperators.field(DoFnOperator.class, "sideInputs");
  private static final Field CODER = BeamOperators.field(RunnerPCollectionView.class, "coder");

  private SideInputCoders() {}

  static void mend(DoFnOperator<?, ?> operator) throws IllegalAccessException {
    for (PCollectionView<?> view : (Collection<PCollectionView<?>>) SIDE_INPUTS.get(operator)) {
      CODER.set(view, elementCoder(view.getCoderInternal()));
    }
  }

  static Coder<?> elementCoder(Coder<?> viewCoder) {
    Coder<?> iterable = ((WindowedValueCoder<?>) viewCoder).getValueCoder();
    return ((IterableLikeCoder<?, ?>) iterable).getElemCoder();
  }
}
