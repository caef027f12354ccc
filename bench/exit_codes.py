"""The exit codes of every command. A pipeline relies on them: 1 always means a regression."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended; README says what each means for the user."""

    FINE = 0
    REGRESSION = 1
    """The regression gate found a regression, or a control of a live target does not hold; nothing else."""
    USAGE = 2
    """Something that the user or the machine has to change: an argument, a file, a full disk."""
    INCOMPLETE = 3
    """Some cells have no result, or some comparisons could not be made."""
    INTERNAL = 70
    """An error of moatbench itself (EX_SOFTWARE of sysexits.h)."""
    INTERRUPTED = 130
