"""A model whose layers lie on several devices, as ``device_map`` puts them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForSequenceClassification

import headsweep
from conftest import CPU, sentences
from headsweep.model.loading import Reading, prepare
from headsweep.prune.strategies import STRATEGIES
from headsweep.settings import configure
from test_generation import examples, generator, rows
from test_strategies import settings_for, view_of

HOST = torch.device("cpu")
MAKERS = {torch.arange, torch.empty, torch.full, torch.ones, torch.tensor, torch.zeros}
MOVERS = {
    Tensor.copy_,
    Tensor.index_copy_,
    Tensor.backward,
    torch.autograd.grad,
    torch._has_compatible_shallow_copy_type,
}


class Several(TorchFunctionMode):
    """Tensors say that they lie on cpu:1 or cpu:2, and none may meet one that lies elsewhere.

    One number may, and so may places in an index that lies on the processor: as of GPUs.
    """

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func == Tensor.device.__get__:
            return lies(args[0])
        if func == Tensor.grad.__get__:
            found = func(*args)
            return found if found is None else put(found, lies(args[0]))
        if func == Tensor.data.__set__:
            func(*args)
            return put(args[0], lies(args[1]))
        if func is Tensor.cpu:
            return put(args[0].view_as(args[0]), HOST)
        if func is Tensor.to:
            return self._moved(*args, **kwargs)
        if func in MAKERS and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            return put(func(*args, **kwargs, device="cpu"), device)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if func in {Tensor.__getitem__, Tensor.__setitem__}:
            given = [args[0], *(x for x in given[1:] if lies(x) != HOST)]
        new = [x for x in given if isinstance(x, torch.nn.Parameter) and not hasattr(x, "lies")]
        given = [x for x in given if not any(x is one for one in new)]  # made of what lies there
        places = {lies(x) for x in given if x.dim()}
        if not (name.startswith(("_foreach", "_fused")) or func in MOVERS) and len(places) > 1:
            raise RuntimeError(f"{name} of tensors that lie on {sorted(map(str, places))}")
        found = func(*args, **kwargs)
        if func is torch.autograd.grad:
            inputs = kwargs.get("inputs", args[1] if len(args) > 1 else ())
            inputs = [inputs] if isinstance(inputs, Tensor) else inputs
            return tuple(put(x, lies(y)) for x, y in zip(found, inputs, strict=True))
        place = next((lies(x) for x in given if x.dim()), lies(given[0]) if given else HOST)
        self.calls[str(place)] += 1
        for made in tree_leaves(found):
            if isinstance(made, Tensor):
                put(made, place)
        return found

    def _moved(self, tensor, *args, **kwargs):
        wanted = [*args, *kwargs.values()]
        device = next((x for x in wanted if isinstance(x, str | torch.device)), None)
        other = next((x for x in wanted if isinstance(x, Tensor)), None)
        place = lies(tensor) if device is None and other is None else lies(other)
        dtype = next((x for x in wanted if isinstance(x, torch.dtype)), tensor.dtype)
        dtype = dtype if other is None else other.dtype
        copy = bool(kwargs.get("copy"))
        found = tensor.to(dtype, copy=copy)
        found = found.view_as(found) if found is tensor else found
        return put(found, place if device is None else torch.device(device))


def lies(tensor):
    return HOST if tensor is None else getattr(tensor, "lies", HOST)


def put(tensor, device):
    tensor.lies = device
    return tensor


class Moves(AlignDevicesHook):
    """accelerate's hook, which moves what a module is given to where the module lies."""

    def init_hook(self, module):
        for tensor in (*module.parameters(), *module.buffers()):
            put(tensor, self.execution_device)
        return module


def dispatched(model):
    """Put embeddings and half of the layers on one device, all behind it on another."""
    first, second = torch.device("cpu:1"), torch.device("cpu:2")
    layers = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    early = layers[: len(layers) // 2]
    inside = {id(module) for layer in layers for module in layer.modules()}
    for module in model.modules():
        if [*module.children()] or id(module) in inside:
            continue
        table = isinstance(module, torch.nn.Embedding)
        add_hook_to_module(module, Moves(first if table else second))
    for layer in layers:
        add_hook_to_module(layer, Moves(first if layer in early else second))
    return add_hook_to_module(model, AlignDevicesHook(first, io_same_device=True))


def test_the_stand_in_lets_no_tensors_of_two_devices_meet():
    with Several():
        one = torch.ones(2, device="cpu:1")
        with pytest.raises(RuntimeError, match="lie on"):
            one + torch.ones(2, device="cpu:2")
        with pytest.raises(RuntimeError, match="lie on"):
            one @ torch.ones(2)
        assert str((one * 2).device) == "cpu:1"
        assert str((one.to("cpu:2") + torch.ones(2, device="cpu:2")).device) == "cpu:2"
        assert one.cpu().device == HOST
        assert lies(one[torch.tensor([0])]) == torch.device("cpu:1")


def opened(tiny, family, **reading):
    """Return a suspect, and the same on two devices; call inside ``Several``."""
    one, other = (tiny(family, num_hidden_layers=4) for _ in range(2))
    return one, prepare(dispatched(other.model), other.tokenizer, Reading(**reading))


def purified(model, tokenizer, **more):
    return headsweep.purify(
        model,
        sentences(64),
        validation=sentences(40, seed=7),
        tokenizer=tokenizer,
        min_accuracy=0.4,
        compute=replace(CPU, jobs=1),
        progress=False,
        **{"heal": {"epochs": 1}, "probe": False} | more,
    )


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_a_model_on_two_devices_is_purified_as_on_one(tiny, tmp_path, family):
    plain, other = (tiny(family, num_hidden_layers=4) for _ in range(2))
    alone = purified(plain.model, plain.tokenizer)
    alone.save(tmp_path / "alone")
    with Several() as mode:
        found = purified(dispatched(other.model), other.tokenizer)
        judged = headsweep.evaluate(found, sentences(40, seed=8), compute=CPU)
    found.save(tmp_path / "spread")
    assert mode.calls["cpu:1"] > 100 < mode.calls["cpu:2"]
    assert judged == headsweep.evaluate(alone, sentences(40, seed=8), compute=CPU)
    assert found.mask == alone.mask
    assert found.manifest["heal"]["compact"]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "spread"))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if "-as-" not in name])
def test_strategies_choose_as_on_one_device(tiny, name):
    strategy = configure(STRATEGIES[name], settings_for(name, "bert"))
    with Several():
        one, other = opened(tiny, "bert")
        assert strategy.choose(view_of(other)).mask == strategy.choose(view_of(one)).mask


@pytest.mark.parametrize("more", [{"strategy": "gradient"}, {"heal": {"lora": 2, "epochs": 1}}])
def test_generators_on_two_devices_are_purified_as_on_one(tokenizer, more):
    def made(model):
        method = {"seed": 3, "compute": replace(CPU, jobs=1), "max_drop": 0.9, "progress": False}
        given = [rows(examples(count, count)) for count in (64, 40)]
        return headsweep.purify(
            model, given[0], validation=given[1], tokenizer=tokenizer, **method, **more
        )

    plain, other = (generator("llama", num_hidden_layers=4) for _ in range(2))
    alone = made(plain)
    with Several() as mode:
        found = made(dispatched(other))
    assert mode.calls["cpu:1"] > 100 < mode.calls["cpu:2"]
    assert found.mask == alone.mask
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(tensor, other.state_dict()[name], atol=1e-6), name


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two GPUs here")
def test_on_two_gpus_as_on_the_processor(trained_folder, tokenizer):
    place = {"bert.embeddings": 0, "bert.encoder.layer.0": 0, "bert.encoder.layer.1": 1,
             "bert.pooler": 1, "classifier": 1}  # fmt: skip
    model = AutoModelForSequenceClassification.from_pretrained(trained_folder, device_map=place)
    plain = AutoModelForSequenceClassification.from_pretrained(trained_folder)
    found, alone = purified(model, tokenizer), purified(plain, tokenizer)
    assert {str(parameter.device) for parameter in model.parameters()} == {"cuda:0", "cuda:1"}
    assert found.mask == alone.mask
    assert found.verified
