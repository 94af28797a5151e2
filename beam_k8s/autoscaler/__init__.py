"""How many workers a streaming job should have: observe, window, evaluate, decide. Pure; no network, no threads.

The loop (``loop.Autoscaler``) sees the job, the clock and what carries a decision out through the ports in ``ports``.
"""
