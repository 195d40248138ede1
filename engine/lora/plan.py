"""Which tensors an adapter must have, and that it has these and no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...kernels.embedding import Embedding
from ..errors import RequestError
from .adapter import Place, Places
from .config import NAME, TASKS, Fields
from .tensors import Entry

OTHER_BASE = "the adapter seems to be made for another base"

ROLES = {  # how the name of a tensor ends -> its role; those that every kind may have
    "base_layer.weight": "base",
    "base_layer.bias": "bias",
    "weight": "weight",
    "bias": "bias",
}


@dataclass(slots=True)
class Wanted:
    """Of one module: the shapes its tensors must have, by role. `may`: they may be absent."""

    scale: float = 1.0
    must: dict[str, tuple[int, ...]] = field(default_factory=dict)
    may: dict[str, tuple[int, ...]] = field(default_factory=dict)
    why: str = "target_modules"  # the field that asks for it


class Found:
    """The tensors of a file by module and role. Raises RequestError where a name is of no module of the model."""

    def __init__(self, entries: Mapping[str, Entry], roles: Mapping[str, str], places: Places):
        self.entries = entries
        self.names: dict[str, dict[str, str]] = {}  # module -> role -> tensor
        bare = True
        by_length = sorted(roles, key=len, reverse=True)
        for tensor in sorted(entries):
            path = tensor.removeprefix("base_model.model.")
            end = next((end for end in by_length if path.endswith("." + end)), None)
            if end is None:
                raise RequestError(
                    f"tensor {tensor} is none that is read; expected names that end in {', '.join(roles)}", param="path"
                )
            path = path[: -len(end) - 1]
            module = places.name(path)
            if module is None:
                raise RequestError(
                    f"tensor {tensor}: the model has no module {path} that an adapter can change ({OTHER_BASE})",
                    param="path",
                )
            held = self.names.setdefault(module, {})
            if roles[end] in held:
                raise RequestError(f"tensors {held[roles[end]]} and {tensor} are for the same place", param="path")
            held[roles[end]] = tensor
            bare = bare and path == module
        self._places, self._bare = places, bare

    def path(self, module: str) -> str:
        """The full path of a module as the adapter's patterns know it: without prefix if its tensors have none."""
        return module if self._bare else self._places.path(module)


def sizes(place: Place) -> tuple[int, int]:
    """Outputs and inputs of a module; of an embedding, width and vocabulary."""
    product = place.product
    if isinstance(product, Embedding):
        return product.width, product.vocab
    return place.rows or product.out_features, product.in_features


def weight_shape(place: Place) -> tuple[int, int]:
    """What the checkpoint has as the weight of a module."""
    outputs, inputs = sizes(place)
    return (inputs, outputs) if place.transposed or isinstance(place.product, Embedding) else (outputs, inputs)


def has_bias(place: Place) -> bool:
    return not isinstance(place.product, Embedding) and place.product.bias is not None


def plan_saved(saved: Iterable[str], found: Found, places: Places, wanted: dict[str, Wanted]) -> None:
    """modules_to_save: all modules whose path ends so are replaced."""
    for end in saved:
        modules = [name for name in places.names() if found.path(name).endswith(end)]
        if not modules:
            raise RequestError(
                f"{NAME}: modules_to_save has {end!r}, which is no module that an adapter can replace here; expected "
                f"linear layers or embeddings such as {', '.join(places.names()[-2:])}",
                param="modules_to_save",
            )
        for module in modules:
            place = places[module]
            here = wanted[module] = Wanted(why="modules_to_save", must={"weight": weight_shape(place)})
            if has_bias(place):
                here.must["bias"] = (sizes(place)[0],)


def plan_base(found: Found, places: Places, wanted: dict[str, Wanted]) -> None:
    """Weights of the base that peft saves beside what was trained: those of the embedding and of the logits."""
    for module, tensors in found.names.items():
        place = places[module]
        saved = module in wanted and "weight" in wanted[module].must
        if not saved and "weight" in tensors:
            if "base" in tensors:
                raise RequestError(
                    f"tensors {tensors['base']} and {tensors['weight']} are for the same place", param="path"
                )
            tensors["base"] = tensors.pop("weight")
        if "base" in tensors and (isinstance(place.product, Embedding) or module in places.outside):
            wanted.setdefault(module, Wanted()).may["base"] = weight_shape(place)


def check(found: Found, wanted: Mapping[str, Wanted]) -> None:
    """Raises RequestError naming the tensor that is missing, left over, or of another shape."""
    for module, tensors in found.names.items():
        if module not in wanted:
            one = next(iter(tensors.values()))
            raise RequestError(
                f"tensor {one}: target_modules and modules_to_save of {NAME} do not name the module "
                f"{found.path(module)}",
                param="target_modules",
            )
    for module, want in wanted.items():
        tensors = found.names.get(module, {})
        if want.must and not tensors:
            raise RequestError(
                f"{NAME}: {want.why} names the module {found.path(module)}, for which there are no tensors",
                param=want.why,
            )
        for role in want.must:
            if role not in tensors:
                there = ", ".join(sorted(tensors.values()))
                raise RequestError(f"module {found.path(module)} has {there} but no {role}", param="path")
        shapes = {**want.must, **want.may}
        for role, tensor in tensors.items():
            if role not in shapes:
                raise RequestError(
                    f"tensor {tensor}: {NAME} does not say that this module has it, so it cannot be applied",
                    param="path",
                )
            entry = found.entries[tensor]
            if entry.shape != shapes[role]:
                raise _misfit(tensor, role, entry.shape, shapes[role])


def _misfit(tensor: str, role: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> RequestError:
    """The rank is the config's word; the other sizes are the model's."""
    axis = {"a": 0, "b": 1}.get(role)
    rank_only = axis is not None and len(shape) == 2 and shape[1 - axis] == expected[1 - axis]
    why = (
        f"the rank that {NAME} gives this module is {expected[axis]}" if rank_only and axis is not None else OTHER_BASE
    )
    return RequestError(
        f"tensor {tensor} has shape {list(shape)}; expected {list(expected)} ({why})",
        param="r" if rank_only else "path",
    )


def common(fields: Fields) -> list[str]:
    """Fields that every kind has; returns modules_to_save."""
    fields.one_of("task_type", TASKS, TASKS[0])
    return fields.strings("modules_to_save")
