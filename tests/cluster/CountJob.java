import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.connector.source.lib.NumberSequenceSource;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;

/** Sums numbers by their last two digits for ever, a thousand a second for each subtask: a job with keyed state. */
public class CountJob {
  public static void main(String[] arguments) throws Exception {
    StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment();
    environment
        .fromSource(new NumberSequenceSource(0, Long.MAX_VALUE - 1), WatermarkStrategy.noWatermarks(), "numbers")
        .map(CountJob::slowly)
        .keyBy(number -> number % 100)
        .reduce(Long::sum)
        .sinkTo(new DiscardingSink<>());
    environment.execute("count");
  }

  private static Long slowly(Long number) throws InterruptedException {
    Thread.sleep(1);
    return number;
  }
}
