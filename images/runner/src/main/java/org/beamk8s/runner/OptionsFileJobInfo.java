package org.beamk8s.runner;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import org.apache.beam.runners.fnexecution.provisioning.JobInfo;
import org.apache.beam.vendor.grpc.v1p60p1.com.google.protobuf.Struct;

/**
 * A {@link JobInfo} that holds the name of the options file instead of the options.
 *
 * <p>Flink serialises JobInfo with the operators into the job graph, and high availability stores
 * the job graph. Only the file's name gets there. The file is read when a TaskManager starts the
 * provision service of a Python harness, so a secret that was rotated is seen after a restart.
 */
final class OptionsFileJobInfo extends JobInfo {
  private static final long serialVersionUID = 1L;

  private final String jobId;
  private final String jobName;
  private final String optionsFile;

  OptionsFileJobInfo(String jobId, String jobName, String optionsFile) {
    this.jobId = jobId;
    this.jobName = jobName;
    this.optionsFile = optionsFile;
  }

  @Override
  public String jobId() {
    return jobId;
  }

  @Override
  public String jobName() {
    return jobName;
  }

  @Override
  public String retrievalToken() {
    return ""; // of the legacy artifact service, which the Flink runner no longer uses
  }

  @Override
  public Struct pipelineOptions() {
    try {
      return JobMain.readOptions(Path.of(optionsFile));
    } catch (IOException e) {
      throw new UncheckedIOException(
          "cannot read the pipeline options; is the file mounted on the TaskManagers too?", e);
    }
  }
}
