"""Annotation formats: labels people drew become class masks, and masks become shapes again."""
