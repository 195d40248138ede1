"""The engine process: schedule, execute, commit, send. Token ids in, token ids out; it knows no text.

Logic (messages config errors sequence blocks state plan scheduler) has no torch, no clock, no socket; the rest has.
"""
