"""The litellm process: the program itself (`server`, alone in importing litellm), and what starts and watches it."""
