"""The commands: each is a function that takes its flags."""
