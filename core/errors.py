"""The error tree. Every error a person can cause is one sentence that says what is wrong, and one that says what to do about it."""


class PrunariumError(Exception):
    """Something in a recipe, model, data set or machine is wrong. Ends a command with exit code 1 and no traceback."""

    def __init__(self, problem: str, remedy: str = ""):
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem} {remedy}".strip())


class RecipeError(PrunariumError):
    """The recipe does not say something that can be run."""


class ModelError(PrunariumError):
    """The model cannot be read, or cannot do what was asked of it."""


class LessonError(PrunariumError):
    """A lesson file does not say something that can be taught."""


class DataError(PrunariumError):
    """The data set or text cannot be read, or is too small for what was asked."""


class BadRows(DataError):
    """Some rows cannot be read. `rows` has (row number, reason), first rows first; a person may choose to skip them."""

    def __init__(self, problem: str, remedy: str, rows: tuple[tuple[int, str], ...]):
        super().__init__(problem, remedy)
        self.rows = rows


class ResourceError(PrunariumError):
    """This machine lacks memory, disk, network or a program that the work needs."""


def out_of_memory(error: BaseException) -> bool:
    """Is this the machine having no memory left? torch says so with errors of its own, on a CPU with a bare RuntimeError."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


class Stopped(Exception):
    """The person asked for a stop. Not an error: what was finished before it is kept."""
