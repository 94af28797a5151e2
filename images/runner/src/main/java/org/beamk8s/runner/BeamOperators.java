package org.beamk8s.runner;

import java.lang.reflect.Field;
import java.util.LinkedHashSet;
import java.util.Set;
import org.apache.beam.runners.flink.translation.wrappers.streaming.DoFnOperator;
import org.apache.flink.api.dag.Transformation;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.operators.SimpleOperatorFactory;
import org.apache.flink.streaming.api.operators.StreamOperatorFactory;
import org.apache.flink.streaming.api.transformations.OneInputTransformation;
import org.apache.flink.streaming.api.transformations.TwoInputTransformation;

/**
 * Mends Beam's streaming operators where Beam 2.62 leaves no other way in: between the translation
 * of the pipeline and its execution. What is mended, and why, stands in {@link IdleAfterBundles},
 * {@link BundleSize}, {@link HarnessBuffer}, {@link StateGate}, {@link SideInputCoders} and {@link
 * GroupByWindow}.
 */
final class BeamOperators {
  static final String OTHER_VERSION = "another version of Beam or Flink than this is made for";

  private BeamOperators() {}

  static void mend(StreamExecutionEnvironment environment) {
    // Beam adds an operator with both a key and a side input to nothing but its successors' inputs.
    Set<Transformation<?>> all = new LinkedHashSet<>();
    environment.getTransformations().forEach(each -> all.addAll(each.getTransitivePredecessors()));
    for (Transformation<?> transformation : all) {
      if (transformation instanceof OneInputTransformation) {
        mend(OneInputTransformation.class, transformation);
      } else if (transformation instanceof TwoInputTransformation) {
        mend(TwoInputTransformation.class, transformation);
      }
    }
  }

  private static void mend(Class<?> type, Transformation<?> transformation) {
    Field operatorFactory = field(type, "operatorFactory");
    try {
      StreamOperatorFactory<?> factory =
          (StreamOperatorFactory<?>) operatorFactory.get(transformation);
      if (factory instanceof SimpleOperatorFactory
          && ((SimpleOperatorFactory<?>) factory).getOperator() instanceof DoFnOperator) {
        DoFnOperator<?, ?> operator =
            (DoFnOperator<?, ?>) ((SimpleOperatorFactory<?>) factory).getOperator();
        GroupByWindow<?, ?> grouping = GroupByWindow.inPlaceOf(operator);
        if (grouping != null) {
          operatorFactory.set(transformation, SimpleOperatorFactory.of(grouping));
          transformation.setUid(transformation.getUid() + GroupByWindow.UID_SUFFIX);
        } else {
          SideInputCoders.mend(operator);
          operatorFactory.set(transformation, new IdleAfterBundles<>(operator));
        }
      }
    } catch (IllegalAccessException e) {
      throw new IllegalStateException(e);
    }
  }

  /** A private field of theirs, made accessible. */
  static Field field(Class<?> type, String name) {
    try {
      Field field = type.getDeclaredField(name);
      field.setAccessible(true);
      return field;
    } catch (NoSuchFieldException e) {
      throw new IllegalStateException(OTHER_VERSION, e);
    }
  }
}
