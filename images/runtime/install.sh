#!/bin/sh
# Lays out what the Dockerfile copies into the image: below /out/dependencies what pip brings, below /out/jars the
# runner jar and the file systems, below /out/ours the rest. All files get the same time, so that what has not changed is the same layer again.
set -eu
packages=usr/local/lib/python3.11/dist-packages # where Debian's Python looks by itself

finish() { # FOLDER: of a layer
  # Containers cannot write the compiler's output beside their read-only sources. By hash: no times in it.
  python3 -m compileall -qq --invalidation-mode unchecked-hash "$1/$packages" || true # some packages hold Python 2
  find "$1" -exec touch --no-dereference --date=@0 {} +
}

case $1 in
  dependencies)
    out=/out/dependencies
    pip install --no-cache-dir --no-compile --find-links wheels --target $out/$packages --requirement requirements.txt
    # Flink comes as a Python package. Of its jars only what the JVMs need: no SQL, no Python API.
    mkdir -p $out/opt/flink/lib
    cd $out/$packages
    mv pyflink/lib/flink-dist-*.jar pyflink/lib/log4j-*.jar $out/opt/flink/lib
    mv pyflink/bin pyflink/plugins $out/opt/flink
    rm -r pyflink apache_flink_libraries-*.dist-info bin
    finish $out
    ;;
  ours)
    out=/out/ours
    pip install --no-cache-dir --no-compile --no-deps --no-index --target $out/$packages wheel/*.whl
    mkdir -p /out/jars/opt/flink/lib $out/opt/flink/bin $out/opt/beam_k8s
    mv $out/$packages/beam_k8s/jars/*.jar /out/jars/opt/flink/lib
    cp -r plugins /out/jars/opt/flink
    install --mode=644 log4j-memory.properties $out/opt/flink/bin
    install harness $out/opt/beam_k8s
    install docker-entrypoint.sh $out
    finish $out
    find /out/jars -exec touch --date=@0 {} +
    ;;
esac
