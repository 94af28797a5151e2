#!/bin/sh
# Lays out the build context of the runtime image: context.sh WHEEL FLINK-VERSION FOLDER FILE-SYSTEM...
# Put wheels of the requirements into FOLDER/wheels to build without an index (--build-arg PIP_NO_INDEX=1).
set -eu
wheel=$1 flink=$2 folder=$3
shift 3
rm -rf "$folder"
mkdir -p "$folder/wheel" "$folder/wheels" "$folder/plugins"
cp "$(dirname "$0")"/* "$folder"
cp "$wheel" "$folder/wheel"
unzip -p "$wheel" '*/METADATA' | sed -n '/extra ==/d; s/^Requires-Dist: //p' >"$folder/requirements.txt"
for system in "$@"; do # each in a folder, and so a class loader, of its own
  mvn --quiet --batch-mode dependency:copy -Dartifact="org.apache.flink:flink-$system-fs-hadoop:$flink" \
    -DoutputDirectory="$(realpath "$folder")/plugins/$system-fs-hadoop"
done
