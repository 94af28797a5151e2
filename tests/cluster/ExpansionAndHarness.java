import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.Map;
import org.apache.beam.fn.harness.ExternalWorkerService;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StartWorkerRequest;
import org.apache.beam.model.fnexecution.v1.BeamFnApi.StartWorkerResponse;
import org.apache.beam.sdk.expansion.ExternalTransformRegistrar;
import org.apache.beam.sdk.expansion.service.ExpansionService;
import org.apache.beam.sdk.extensions.sql.SqlTransform;
import org.apache.beam.sdk.options.PipelineOptionsFactory;
import org.apache.beam.sdk.transforms.ExternalTransformBuilder;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.PInput;
import org.apache.beam.sdk.values.Row;
import org.apache.beam.vendor.grpc.v1p60p1.io.grpc.netty.NettyServerBuilder;
import org.apache.beam.vendor.grpc.v1p60p1.io.grpc.stub.StreamObserver;

/**
 * Beam's Java expansion service, and the harness that runs what it expands to, in one process. Prints the service's
 * port; ends when its standard input does.
 *
 * <p>TaskManagers reach the harness as Beam's EXTERNAL environment: nothing of it has to be on their class path.
 */
public final class ExpansionAndHarness {
  public static void main(String[] arguments) throws Exception {
    String harness = new Harnesses().start().getApiServiceDescriptor().getUrl();
    // One empty file to stage: the harness has the jars already, and without the option all of them would be staged.
    String[] options = {
      "--defaultEnvironmentType=EXTERNAL", "--defaultEnvironmentConfig=" + harness, "--filesToStage=" + arguments[0]
    };
    System.out.println(
        NettyServerBuilder.forAddress(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0))
            .addService(new ExpansionService(options))
            .addService(new org.apache.beam.runners.fnexecution.artifact.ArtifactRetrievalService())
            .build()
            .start()
            .getPort());
    while (System.in.read() >= 0) {}
    System.exit(0);
  }

  /** Starts a harness for each job: the first one to end shuts down the threads that hang on its options. */
  private static final class Harnesses extends ExternalWorkerService {
    Harnesses() {
      super(PipelineOptionsFactory.create());
    }

    @Override
    public void startWorker(StartWorkerRequest request, StreamObserver<StartWorkerResponse> answer) {
      new ExternalWorkerService(PipelineOptionsFactory.create()).startWorker(request, answer);
    }
  }

  /**
   * Stands for Beam's class of this purpose, which is not among the libraries in Maven Central but only in the fat jar
   * of the SQL expansion service.
   */
  public static final class Sql implements ExternalTransformRegistrar {
    @Override
    public Map<String, ExternalTransformBuilder<?, ?, ?>> knownBuilderInstances() {
      return Map.of("beam:external:java:sql:v1", new Builder());
    }

    /** As Python's SqlTransform sends it. */
    public static final class Configuration {
      private String query = "";

      public void setQuery(String query) {
        this.query = query;
      }

      public void setDialect(String dialect) {
        if (dialect != null) {
          throw new IllegalArgumentException("only Beam's default dialect");
        }
      }
    }

    private static final class Builder
        implements ExternalTransformBuilder<Configuration, PInput, PCollection<Row>> {
      @Override
      public PTransform<PInput, PCollection<Row>> buildExternal(Configuration configuration) {
        return SqlTransform.query(configuration.query);
      }
    }
  }
}
