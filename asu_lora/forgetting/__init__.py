"""The main job: one forget request in, one LoRA adapter out. Read ``forget.py`` from top to bottom."""
