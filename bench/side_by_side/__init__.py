"""Runs direct, HAProxy, stunnel and meshnode side by side; bench/run.sh starts it."""
