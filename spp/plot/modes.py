"""What a figure of a watched run is about: its training passes, or its evaluations where it holds nothing else."""

import pandas as pd

from spp.frame.schema import Column


def one_mode(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of training of a table that has rows of evaluations too; any other table as it is.

    An evaluation has no gradients and is counted at the step that comes next, so that the last step of a run would often
    show nothing else.
    """
    if str(Column.MODE) not in table.columns or table.empty:
        return table
    training = table[Column.MODE] == "train"
    return table if training.all() or not training.any() else table[training]
