"""Simulated jobs under several autoscalers; see __main__."""
