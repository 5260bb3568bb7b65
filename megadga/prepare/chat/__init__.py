"""Dialogues: rendered with a chat template, tokenized, with the assistant's turns marked."""
