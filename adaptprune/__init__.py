"""Adapting by pruning: learn which weights of a frozen network to keep, one bit a weight.

The names below are what people start with. Each is loaded when it is first used, so `import adaptprune` costs nothing.
The rest is in the modules."""
__version__ = "0.1.0"

import sys,warnings
from importlib import import_module
from typing import TYPE_CHECKING

if 'ipykernel' in sys.modules:      # without ipywidgets tqdm warns in red, once: when the first library here loads it
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='IProgress not found')
        import tqdm.auto
        del tqdm

if TYPE_CHECKING:
    from .artifact import TaskMask
    from .compaction import compact
    from .compression import compress
    from .export import export_onnx, save_plain
    from .fisher import choose_units, unit_scores
    from .folder import load_adapted, load_compact, save_compact, save_model
    from .loop import adapt
    from .mask import Mask
    from .multitask import MultiTask
    from .optim import MaskOptimizer
    from .predict import Predictor, load
    from .privacy import Privacy
    from .private import adapt_privately
    from .recipe import Recipe, get_recipe
    from .scores import activation_scores
    from .setup import evaluate, set_up
    from .task import adapt_task
    from .taskcard import TaskCard
    from .tasks import load_data, load_files, load_task
    from .tolerance import find_sparsity
    from .trainer import MaskCallback, MaskTrainer, learn_from
    from .units import Structure, base_of, find_units
    from .watch import KeepBest, Log, LogCSV, LogTensorBoard, LogText, LogWandb

__all__ = [
    'KeepBest', 'Log', 'LogCSV', 'LogTensorBoard', 'LogText', 'LogWandb', 'Mask', 'MaskCallback',
    'MaskOptimizer', 'MaskTrainer', 'MultiTask', 'Predictor', 'Privacy', 'Recipe', 'Structure', 'TaskCard',
    'TaskMask', 'activation_scores', 'adapt', 'adapt_privately', 'adapt_task', 'base_of', 'choose_units',
    'compact', 'compress', 'evaluate', 'export_onnx', 'find_sparsity', 'find_units', 'get_recipe', 'learn_from',
    'load', 'load_adapted', 'load_compact', 'load_data', 'load_files', 'load_task', 'save_compact',
    'save_model', 'save_plain', 'set_up', 'unit_scores']

_rooms = dict(
    artifact=['TaskMask'], compaction=['compact'], compression=['compress'], export=['export_onnx', 'save_plain'],
    fisher=['choose_units', 'unit_scores'], folder=['load_adapted', 'load_compact', 'save_compact', 'save_model'],
    loop=['adapt'], mask=['Mask'], multitask=['MultiTask'], optim=['MaskOptimizer'], predict=['Predictor', 'load'],
    privacy=['Privacy'], private=['adapt_privately'], recipe=['Recipe', 'get_recipe'], scores=['activation_scores'],
    setup=['evaluate', 'set_up'], task=['adapt_task'], taskcard=['TaskCard'],
    tasks=['load_data', 'load_files', 'load_task'], tolerance=['find_sparsity'],
    trainer=['MaskCallback', 'MaskTrainer', 'learn_from'], units=['Structure', 'base_of', 'find_units'],
    watch=['KeepBest', 'Log', 'LogCSV', 'LogTensorBoard', 'LogText', 'LogWandb'])
_home = {name: room for room, names in _rooms.items() for name in names}

def __getattr__(name):
    "Load a public name when it is first asked for (PEP 562)"
    if name not in _home:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(import_module(f'.{_home[name]}', __name__), name)
    globals()[name] = value
    return value

def __dir__(): return sorted({*globals(), *__all__})
