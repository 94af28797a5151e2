#!/bin/sh
# What Flink's start scripts do for a container, which its PyPI distribution leaves out. The operator's standalone mode
# calls it as: standalone-job ARGUMENTS, or taskmanager ARGUMENTS.
set -eu
role=$1
shift
case $role in
  standalone-job)
    main=org.apache.flink.container.entrypoint.StandaloneApplicationClusterEntryPoint ask=GET_JM_RESOURCE_PARAMS ;;
  taskmanager)
    main=org.apache.flink.runtime.taskexecutor.TaskManagerRunner ask=GET_TM_RESOURCE_PARAMS ;;
  *) exec "$role" "$@" ;;
esac
log=-Dlog4j.configurationFile=$FLINK_CONF_DIR/log4j-console.properties
# Flink derives its memory from the configuration: the JVM's flags on one line, its own settings on the next.
answer=$(java -XX:TieredStopAtLevel=1 "$log" -cp '/opt/flink/bin/*:/opt/flink/lib/*' \
  org.apache.flink.runtime.util.bash.BashJavaUtils $ask --configDir "$FLINK_CONF_DIR" |
  sed -n 's/^BASH_JAVA_UTILS_EXEC_RESULT://p')
jvm=$(echo "$answer" | sed -n 1p)
settings=$(echo "$answer" | sed -n 2p)
# shellcheck disable=SC2086 # both are lists
exec java $jvm "$log" -cp '/opt/flink/lib/*' $main --configDir "$FLINK_CONF_DIR" $settings "$@"
