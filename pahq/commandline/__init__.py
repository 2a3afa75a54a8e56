"""The command line's commands: what each takes, which room does it, and how what came of it is told.

Every command is declared here and done elsewhere, in a room that is imported once what was typed has been read.
"""
