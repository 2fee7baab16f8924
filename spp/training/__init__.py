"""The small trainer behind ``spp train`` and the studies.

data = spp.data.splits("digits")
model = spp.models.build("ffn", input_shape=data.shape, num_classes=len(data.classes))
fitted = spp.training.fit(model, data, spp.training.Recipe(epochs=20, lr=1e-3), folder="runs/ffn")
fitted.history      # one row per epoch
fitted.test         # loss and accuracy of the last and of the best weights
"""

from spp.training.fitting import check_fit as check_fit
from spp.training.fitting import fit as fit
from spp.training.loop import evaluate as evaluate
from spp.training.recipe import OPTIMIZERS as OPTIMIZERS
from spp.training.recipe import SCHEDULES as SCHEDULES
from spp.training.recipe import OptimizerRow as OptimizerRow
from spp.training.recipe import Recipe as Recipe
from spp.training.recipe import ScheduleRow as ScheduleRow
from spp.training.results import Fitted as Fitted
from spp.training.results import News as News
