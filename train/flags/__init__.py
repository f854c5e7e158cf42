"""The command lines: flags, their ranges, and what they stand for. Imports nothing heavy."""

from train.flags.cameo import DEFAULT, Command, can_grow, check_command, settings_of

__all__ = ["DEFAULT", "Command", "can_grow", "check_command", "settings_of"]
