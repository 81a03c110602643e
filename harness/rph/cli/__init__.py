"""The command `rph`: options in, text out, and nothing else. Each file is a group of commands.

What a command does stands in the rooms below and is imported inside its function, so that `rph --help` stays fast.
Only the roof imports this room; no room ever does. It never imports a plugin by name.
"""
