"""Rules that turn the updates of many clients into one, and what they share."""
