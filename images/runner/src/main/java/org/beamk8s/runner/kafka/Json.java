package org.beamk8s.runner.kafka;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.apache.kafka.common.TopicPartition;

/** Reads a transform's payload; a field that is missing, unknown or of the wrong type is an error. */
final class Json {
  private static final ObjectMapper MAPPER = new ObjectMapper();

  private final JsonNode object;

  private Json(JsonNode object) {
    this.object = object;
  }

  /** Unknown fields are refused: they were written by a newer Python side, to be obeyed. */
  static Json parse(byte[] payload, Set<String> known) {
    JsonNode object;
    try {
      object = MAPPER.readTree(payload);
    } catch (IOException e) {
      throw new IllegalArgumentException("the payload is not JSON", e);
    }
    if (!object.isObject()) {
      throw new IllegalArgumentException("the payload is not a JSON object");
    }
    for (Iterator<String> names = object.fieldNames(); names.hasNext(); ) {
      String name = names.next();
      if (!known.contains(name)) {
        throw new IllegalArgumentException(
            "unknown field " + name + " (is the runner jar older than the Python package?)");
      }
    }
    return new Json(object);
  }

  JsonNode node(String name) {
    return object.path(name);
  }

  boolean isAbsent(String name) {
    return node(name).isMissingNode() || node(name).isNull();
  }

  String string(String name) {
    return check(name, node(name).isTextual(), "a string").asText();
  }

  String stringOrNull(String name) {
    return isAbsent(name) ? null : string(name);
  }

  boolean bool(String name) {
    return check(name, node(name).isBoolean(), "a boolean").asBoolean();
  }

  long nonNegative(String name) {
    JsonNode node = node(name);
    return check(name, node.canConvertToLong() && node.asLong() >= 0, "an integer >= 0").asLong();
  }

  int positive(String name) {
    JsonNode node = node(name);
    return check(name, node.canConvertToInt() && node.asInt() > 0, "an integer > 0").asInt();
  }

  <E extends Enum<E>> E oneOf(String name, Class<E> type) {
    try {
      return Enum.valueOf(type, string(name).toUpperCase(java.util.Locale.ROOT));
    } catch (IllegalArgumentException e) {
      throw new IllegalArgumentException(name + ": unknown value " + node(name), e);
    }
  }

  List<String> strings(String name) {
    List<String> values = new ArrayList<>();
    check(name, node(name).isArray() && node(name).size() > 0, "a list of strings")
        .forEach(value -> values.add(value.asText()));
    return values;
  }

  boolean isNumberIn(String name, String field) {
    return node(name).path(field).canConvertToLong() && node(name).path(field).isNumber();
  }

  /** A list of [topic, partition, offset]; without the field none. */
  Map<TopicPartition, Long> offsets(String name) {
    Map<TopicPartition, Long> values = new LinkedHashMap<>();
    for (JsonNode each : node(name)) {
      check(name, each.path(2).canConvertToLong(), "a list of [topic, partition, offset]");
      values.put(
          new TopicPartition(each.get(0).asText(), each.get(1).asInt()), each.get(2).asLong());
    }
    return values;
  }

  /** Serializable and in a fixed order, so that the same pipeline gives the same job graph. */
  TreeMap<String, String> stringMap(String name) {
    TreeMap<String, String> values = new TreeMap<>();
    JsonNode node = check(name, node(name).isObject(), "an object of strings");
    for (Iterator<Map.Entry<String, JsonNode>> fields = node.fields(); fields.hasNext(); ) {
      Map.Entry<String, JsonNode> field = fields.next();
      values.put(field.getKey(), field.getValue().asText());
    }
    return values;
  }

  private JsonNode check(String name, boolean good, String expected) {
    if (!good) {
      throw new IllegalArgumentException(name + ": expected " + expected);
    }
    return node(name);
  }
}
