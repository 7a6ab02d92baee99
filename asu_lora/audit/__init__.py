"""Attack what was forgotten, beside controls, and write down what was tried and what it found."""
