"""Trials that try to lose a run, to publish half a version, or to get past the checks: ``python -m tests.campaign``."""
