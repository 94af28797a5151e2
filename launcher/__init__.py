"""Runs with the user, or in a launcher pod: every side effect of the product stands in this package."""

if __name__ != "beam_k8s.launcher":
    raise ImportError(f"import beam_k8s.launcher, not {__name__}: put the checkout's root on the path")
