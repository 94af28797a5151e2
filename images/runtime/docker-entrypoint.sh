#!/bin/sh
# What Flink's start scripts do for a container, which its PyPI distribution leaves out. The operator's standalone mode
# calls it as: standalone-job ARGUMENTS, or taskmanager ARGUMENTS. Java then is process 1, which ends on SIGTERM.
set -eu
role=${1:?standalone-job or taskmanager}
shift
case $role in
  standalone-job)
    main=org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint
    ask=GET_JM_RESOURCE_PARAMS key=jobmanager
    # It compiles little and lives for one job: the cheap compiler starts it faster.
    flags=-XX:TieredStopAtLevel=1
    ;;
  taskmanager)
    main=org.apache.flink.runtime.taskexecutor.TaskManagerRunner
    ask=GET_TM_RESOURCE_PARAMS key=taskmanager flags=
    ;;
  *) exec "$role" "$@" ;;
esac

classpath=
for jar in "$FLINK_HOME"/lib/*.jar; do
  case $jar in
    */flink-dist-*) dist=$jar ;; # last, as in Flink's own scripts: a jar beside it may stand in for a class of it
    *) classpath=$classpath$jar: ;;
  esac
done
classpath=$classpath$dist

# Flink derives its memory from the configuration: the JVM's flags on one line, its own settings on the next. It also
# says each setting that it has read, whatever the form of the file; secrets it hides.
answer=$(java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$FLINK_HOME/bin/bash-java-utils.jar:$classpath" \
  -Dlog4j.configurationFile="file:$FLINK_HOME/bin/log4j-memory.properties" \
  org.apache.flink.runtime.util.bash.BashJavaUtils $ask --configDir "$FLINK_CONF_DIR") || {
  echo "$answer" >&2
  exit 1
}
memory=$(echo "$answer" | sed -n 's/^BASH_JAVA_UTILS_EXEC_RESULT://p')
user=$(echo "$answer" | sed -n "s/^Loading configuration property: env\.java\.opts\.\(all\|$key\), //p")

if [ "$role" = taskmanager ]; then # Beam is imported while the JVM starts; this process becomes the JVM
  python3 -m beam_k8s.transforms.boot --warm=$$ </dev/null >/dev/null 2>&1 &
fi

set -f # what follows are lists of words, not of files
# shellcheck disable=SC2046,SC2086
exec java $flags $(echo "$memory" | sed -n 1p) $user \
  -Dlog.file="$FLINK_HOME/log/$key-$(hostname).log" \
  -Dlog4j.configurationFile="file:$FLINK_CONF_DIR/log4j-console.properties" \
  -cp "$classpath" $main --configDir "$FLINK_CONF_DIR" $(echo "$memory" | sed -n 2p) "$@"
