"""Fisher geometry of classifiers."""
