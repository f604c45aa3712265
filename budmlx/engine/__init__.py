"""The front half: messages to token ids, token ids to text, and the hosts a core runs in."""
