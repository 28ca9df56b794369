"""Forwards (`-L`, `-D`): where one may lead, and the bytes on their way."""
