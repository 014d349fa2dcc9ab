"""Dialogues: what was said, what a reply is to say, replies from a data set, and the task of making new ones."""
