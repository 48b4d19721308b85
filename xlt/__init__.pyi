from xlt.use.python import Annotation as Annotation
from xlt.use.python import LoadedModel as LoadedModel
from xlt.use.python import ModuleArtefact as ModuleArtefact
from xlt.use.python import ModuleStack as ModuleStack
from xlt.use.python import Scores as Scores
from xlt.use.python import TrainedRun as TrainedRun
from xlt.use.python import compose_config as compose_config
from xlt.use.python import evaluate as evaluate
from xlt.use.python import load_model as load_model
from xlt.use.python import load_module as load_module
from xlt.use.python import predict as predict
from xlt.use.python import train as train

__version__: str
LOADED_NS: int
