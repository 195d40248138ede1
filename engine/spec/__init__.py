"""Speculation: guesses at the next tokens, which one step of the model then checks together.

A proposer says what may follow; the sampler draws every token as it does without (sampling/__init__.py), so that a
right guess saves a step and a wrong one changes nothing. How many guesses are worth their rows is counted in pace.py.
"""
