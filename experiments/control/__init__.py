"""Control tasks for Decision Transformers: environments, recorded play, and episodes played with a memory."""
