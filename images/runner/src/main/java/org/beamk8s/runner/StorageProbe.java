package org.beamk8s.runner;

import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.UUID;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.fs.FSDataInputStream;
import org.apache.flink.core.fs.FSDataOutputStream;
import org.apache.flink.core.fs.FileSystem;
import org.apache.flink.core.fs.Path;
import org.apache.flink.core.plugin.PluginUtils;

/**
 * Writes, reads and deletes one small file below a URL, as Flink's checkpoints do: with the file
 * systems and the credentials of the pod it runs in. Arguments: the URL, then Flink settings as
 * KEY=VALUE. Exit code 1: it cannot; the last line of stderr says why.
 */
public final class StorageProbe {
  private StorageProbe() {}

  public static void main(String[] args) {
    try {
      probe(args[0], Arrays.copyOfRange(args, 1, args.length));
    } catch (Exception | Error e) {
      System.err.println(reason(e));
      System.exit(1);
    }
  }

  static void probe(String url, String[] settings) throws Exception {
    Configuration configuration = new Configuration();
    for (String setting : settings) {
      String[] pair = setting.split("=", 2);
      configuration.setString(pair[0], pair[1]);
    }
    FileSystem.initialize(
        configuration, PluginUtils.createPluginManagerFromRootFolder(configuration));
    byte[] content = url.getBytes(StandardCharsets.UTF_8);
    Path file = new Path(new Path(url), "beam-k8s-doctor-" + UUID.randomUUID());
    FileSystem files = file.getFileSystem();
    try {
      try (FSDataOutputStream out = files.create(file, FileSystem.WriteMode.NO_OVERWRITE)) {
        out.write(content);
      }
      try (FSDataInputStream in = files.open(file)) {
        if (!Arrays.equals(in.readNBytes(content.length + 1), content)) {
          throw new IllegalStateException(file + " does not hold what was written");
        }
      }
    } finally {
      files.delete(file, false);
    }
  }

  /** The innermost cause, in one line. */
  private static String reason(Throwable error) {
    Throwable cause = error;
    while (cause.getCause() != null) {
      cause = cause.getCause();
    }
    return (cause.getClass().getSimpleName() + ": " + cause.getMessage()).replaceAll("\\s+", " ");
  }
}
