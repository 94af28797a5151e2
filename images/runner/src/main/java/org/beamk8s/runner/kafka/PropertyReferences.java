package org.beamk8s.runner.kafka;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.Properties;
import java.util.function.UnaryOperator;

/**
 * Client properties whose values may be references: {@code env:NAME} or {@code file:PATH}.
 *
 * <p>They are resolved where a client is opened, never before: what is known at translation gets
 * into the job graph, and the pipeline itself is in an image. (Kafka's own {@code config.providers}
 * would do for the clients, but not every client of this version has an environment provider, and
 * the connector reads some properties itself.)
 */
final class PropertyReferences {
  private static final String ENVIRONMENT = "env:";
  private static final String FILE = "file:";

  private PropertyReferences() {}

  static Properties resolve(Map<String, String> properties) {
    return resolve(properties, System::getenv);
  }

  static Properties resolve(Map<String, String> properties, UnaryOperator<String> environment) {
    Properties resolved = new Properties();
    properties.forEach((name, value) -> resolved.setProperty(name, value(name, value, environment)));
    return resolved;
  }

  private static String value(String name, String value, UnaryOperator<String> environment) {
    if (value.startsWith(ENVIRONMENT)) {
      String variable = value.substring(ENVIRONMENT.length());
      String found = environment.apply(variable);
      if (found == null) {
        throw new IllegalArgumentException(
            "Kafka property " + name + ": environment variable " + variable + " is not set");
      }
      return found;
    }
    if (value.startsWith(FILE)) {
      Path path = Path.of(value.substring(FILE.length()));
      try {
        // Editors and echo add a newline; a blank may be the secret's own.
        return Files.readString(path).replaceFirst("[\\r\\n]+\\z", "");
      } catch (IOException e) {
        throw new UncheckedIOException("Kafka property " + name + ": cannot read " + path, e);
      }
    }
    return value;
  }
}
