"""A watch where people already train and look: one thin file per library, each behind an extra of its name.

``spp.integrations.lightning`` and ``spp.integrations.transformers`` put :func:`spp.watch` around a trainer's loop;
``spp.integrations.tensorboard`` and ``spp.integrations.wandb`` send what it measures to where runs are looked at;
:func:`board` sends it anywhere else.
"""

from spp.integrations.boards import SHOWN as SHOWN
from spp.integrations.boards import Board as Board
from spp.integrations.boards import board as board
