"""``python -m beam_k8s`` is ``beam-k8s``."""

from beam_k8s.launcher.cli import main

main()
