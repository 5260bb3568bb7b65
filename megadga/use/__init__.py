"""Uses trained models: losses on text, generated text, multiple-choice questions."""
