"""A classifier made ready for many passes: the same function, less work for each pass.

1. BatchNorm is folded into the convolution before it. Which convolution that is, is seen in one
   traced pass, by tensor identity; timm's ``BatchNormAct2d`` keeps its activation.
2. The first convolution, which is affine, is split off. The path from baseline to film is then
   walked in *its* output, ``stem(b + a (x - b)) = stem(b) + a (stem(x) - stem(b))``, and its
   adjoint is applied once to the summed gradients instead of once for each step.
3. The rest runs channels-last and, if asked for, in bfloat16; first convolution, last layer,
   pooling after it, and all sums stay in float32.

All this is done to copies, in float64, and kept only if the logits agree with those of the
classifier as it was given, operations that work in place and all.
"""

from __future__ import annotations

import copy
import logging
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from timm.layers import BatchNormAct2d, Conv2dSame  # type: ignore[attr-defined]
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dollkit.common import compute
from dollkit.common.errors import InputError, brief
from dollkit.explanations.attribution import check_logits

log = logging.getLogger(__name__)

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
"""Layers that are a convolution and nothing else; timm's pads as TensorFlow does."""
AGREE = 1e-5
"""Largest difference of logits, relative to the largest logit, that a change may make."""


@dataclass
class Prepared:
    """A classifier ready to be explained.

    `stem`, the affine first layer (None if it could not be split off), and `exact`, from there to
    logits, compute in `wide`: float32, or float64 where that was asked for. `body` is `exact` in
    `narrow`, for the walk. `folded` counts the BatchNorm layers that are gone; `row_bytes` is the
    measured memory of one film at one point of the path.
    """

    stem: nn.Module | None
    exact: nn.Module
    body: nn.Module
    wide: torch.dtype
    narrow: torch.dtype
    folded: int
    row_bytes: int

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """Films in `wide` -> where the path is walked."""
        return x if self.stem is None else self.stem(x)

    def logits(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        """Logits in `wide` precision, without gradients: (n, C, S, S) -> (n, outputs).

        `rows` films at a time: that takes less memory than a pass of the walk with as many rows.
        """
        with torch.no_grad():
            return torch.cat([self.exact(self.enter(part.to(self.wide))) for part in x.split(rows)])


_Key = tuple[object, ...]
_PLAIN = (bool, int, float, str, type(None))
_known: weakref.WeakKeyDictionary[nn.Module, dict[_Key, tuple[_Key, Prepared]]]
_known = weakref.WeakKeyDictionary()


def prepare(model: nn.Module, precision: str, films: torch.Tensor) -> Prepared:
    """The classifier made ready; done once for each classifier, its state and film shape.

    `precision` of the walk is one of `PRECISIONS`; the first two films are traced with.
    """
    if precision not in PRECISIONS:
        raise InputError(f"parameter 'precision' is {precision!r}: use one of {sorted(PRECISIONS)}")
    for name, module in model.named_modules():
        mixes = isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)
        if mixes and module.training:
            raise InputError(f"the classifier's layer {name!r} is in training mode: call eval()")
    key: _Key = (precision, str(films.device), *films.shape[1:])
    state = _state(model)
    kept = _known.setdefault(model, {})
    if key not in kept or kept[key][0] != state:
        kept[key] = (state, _prepare(model, precision, films[:2].detach().clone()))
    return kept[key][1]


def _state(model: nn.Module) -> _Key:
    """Changes when a layer, a setting of one, a hook or a weight does, by whatever means.

    A write through ``weight.data`` leaves no trace but the values themselves.
    """
    layers: list[object] = []
    tensors = [*model.parameters(), *model.buffers()]
    for name, module in model.named_modules():
        settings = [(k, v) for k, v in vars(module).items() if isinstance(v, _PLAIN)]
        settings += [(k, repr(v)) for k, v in vars(module).items() if _is_plain_tuple(v)]
        settings += [(k, id(v)) for k, v in vars(module).items() if callable(v)]
        hooks = (*module._forward_hooks, *module._forward_pre_hooks)
        layers.append((name, id(module), type(module), tuple(settings), hooks))
        tensors += [v for v in vars(module).values() if isinstance(v, torch.Tensor)]
    sums = [torch.zeros(2, dtype=torch.float64)]
    for tensor in tensors:
        flat = tensor.detach().double().flatten()
        # By place too: rows of a head that change places leave the plain sum as it is.
        place = torch.arange(1, len(flat) + 1, dtype=flat.dtype, device=flat.device)
        sums.append(torch.stack([flat.sum(), flat @ place]).cpu())
    return (*layers, torch.stack(sums).numpy().tobytes())


def _is_plain_tuple(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(v, _PLAIN) for v in value)


def _prepare(model: nn.Module, precision: str, films: torch.Tensor) -> Prepared:
    narrow = PRECISIONS[precision]
    wide = torch.float64 if narrow is torch.float64 else torch.float32
    try:
        with torch.no_grad():
            check_logits(model(films.clone()), len(films))
    except (AssertionError, RuntimeError) as error:
        if compute.out_of_memory(error):
            raise
        size = films.shape[-1]
        raise InputError(f"films of {size} pixels do not pass it ({brief(error)})") from error
    stem, body, folded = _rewrite(model, films)
    stem = None if stem is None else _as(stem, wide)
    exact = _as(body, wide)
    with torch.no_grad():
        z = films.to(wide) if stem is None else stem(films.to(wide))
    body = exact if narrow is wide else _narrowed(exact, z, narrow)
    row_bytes = _row_bytes(body, z[:1].clone(), narrow)
    return Prepared(stem, exact, body, wide, narrow, folded, row_bytes)


def _row_bytes(body: nn.Module, z: torch.Tensor, narrow: torch.dtype) -> int:
    """What backward keeps of one point of the path, and its largest neighbours."""
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        body(z.to(narrow).requires_grad_())
    for p in (*body.parameters(), *body.buffers()):
        kept.pop(p.untyped_storage().data_ptr(), None)
    return sum(kept.values()) + 3 * max(kept.values(), default=0) + 3 * z.untyped_storage().nbytes()


def _as(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    module = copy.deepcopy(module).to(dtype).requires_grad_(False)
    return module.to(memory_format=torch.channels_last)


def _narrowed(exact: nn.Module, z: torch.Tensor, narrow: torch.dtype) -> nn.Module:
    """Copy in `narrow` but for the last layer and, on a CPU, depthwise convolutions."""
    body = _as(exact, narrow)
    for name, layer in exact.named_modules():
        if z.device.type == "cpu" and compute.depthwise(layer):
            _replace(body, name, _in_float32(layer, narrow))
    weighted = [c for c in _trace(exact, z) if type(c.module) in (*CONVOLUTIONS, nn.Linear)]
    if weighted:
        last = weighted[-1].name
        _replace(body, last, _in_float32(exact.get_submodule(last), torch.float32))
    with torch.no_grad():
        check_logits(body(z.to(narrow)), len(z))
    return body


def _in_float32(layer: nn.Module, out: torch.dtype) -> nn.Module:
    """Copy that computes in float32, and gives `out`."""
    layer = copy.deepcopy(layer).float()
    layer.register_forward_pre_hook(lambda _, given: (given[0].float(),))
    layer.register_forward_hook(lambda _, given, made: made.to(out))
    return layer


class _Call(NamedTuple):
    """A layer's call: the very tensors that went in and came out."""

    name: str
    module: nn.Module
    input: object
    output: object


def _trace(model: nn.Module, films: torch.Tensor) -> list[_Call]:
    calls: list[_Call] = []
    hooks = []
    for name, module in model.named_modules():
        if not list(module.children()) or isinstance(module, nn.BatchNorm2d):

            def kept(m: nn.Module, i: tuple[object, ...], o: object, name: str = name) -> None:
                calls.append(_Call(name, m, i[0] if i else None, o))

            hooks.append(module.register_forward_hook(kept))
    try:
        with torch.no_grad():
            model(films)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)


def _rewrite(model: nn.Module, films: torch.Tensor) -> tuple[nn.Module | None, nn.Module, int]:
    """Stem (or None), rest and number of folded layers, in float64."""
    given = copy.deepcopy(model).double()
    films = torch.cat([films, films.flip(2) * 0.5 + 0.25]).double()
    with torch.no_grad():
        logits = given(films.clone())
    plain: nn.Module = copy.deepcopy(given)
    for module in plain.modules():
        if getattr(module, "inplace", None) is True:  # backward would keep what is overwritten
            module.inplace = False  # type: ignore[assignment]
    if not _agree(plain, films, logits):
        log.warning("a layer works in place on what others read: the classifier is left as it is")
        return None, _Apart(given), 0
    body: nn.Module = copy.deepcopy(plain)
    folded = _fold(body, films)
    if folded and not _agree(body, films, logits):
        log.info("BatchNorm is not folded: the logits would change")
        folded, body = 0, plain
    seen = films.clone()
    calls = _trace(body, seen)
    first = next((c for c in calls if c.input is seen and type(c.module) in CONVOLUTIONS), None)
    if first is None or first.module._forward_hooks:  # what a hook makes of it need not be affine
        return None, _safe(body, films), folded
    rest = copy.deepcopy(body)
    _replace(rest, first.name, nn.Identity())
    stem = copy.deepcopy(first.module)
    with torch.no_grad():
        z = stem(films)
    if not _agree(rest, z, logits):
        return None, _safe(body, films), folded
    return stem, _safe(rest, z), folded


class _Apart(nn.Module):
    """A network that may write into its input, given a copy."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> Any:
        return self.network(x.clone())


def _safe(body: nn.Module, z: torch.Tensor) -> nn.Module:
    """The network, or one that never writes into the path's points, if it would."""
    points = z.detach().clone()
    with torch.no_grad():
        body(points)
    return body if torch.equal(points, z) else _Apart(body)


def _agree(model: nn.Module, x: torch.Tensor, logits: torch.Tensor) -> bool:
    try:
        with torch.no_grad():
            gap = (model(x.clone()) - logits).abs().max()
    except Exception:  # the rest may need the film's own shape
        return False
    return bool(gap <= AGREE * logits.abs().max().clamp_min(1e-3))


def _fold(model: nn.Module, films: torch.Tensor) -> int:
    """Fold, in place, every BatchNorm that directly follows a convolution of its own."""
    calls = _trace(model, films.clone())
    times = Counter(c.name for c in calls)
    made_by = {id(c.output): c for c in calls if type(c.module) in CONVOLUTIONS}
    readers = Counter(id(c.input) for c in calls)
    folded = 0
    for call in calls:
        conv, norm = made_by.get(id(call.input)), call.module
        if conv is None or type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
            continue
        once = times[call.name] == times[conv.name] == 1 and readers[id(call.input)] == 1
        if not once or norm.running_mean is None:
            continue
        fused = fuse_conv_bn_eval(conv.module, norm)  # type: ignore[type-var, arg-type]
        _replace(model, conv.name, fused)
        _replace(model, call.name, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
        folded += 1
    return folded
