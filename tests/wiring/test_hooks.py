"""Places by either name, and hooks that tell and change."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from bilens import Transformer, TransformerConfig, load
from bilens.base.errors import ArgumentError
from bilens.circuits import At, attention_scores, expand, knockout
from bilens.models import activations
from bilens.wiring import Place, find_place, hear, hooked, module_name, short_name

MODEL = load("tinystories-2l")
PARTS = MODEL.wiring().parts


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("mlp1.input", Place(3, "input", "mlp1.input")),
        ("layers.1.mlp.input", Place(3, "input", "mlp1.input")),
        ("model.layers.0.mlp.output", Place(1, "output", "mlp0.output")),
        ("layers.0.self_attn.input", Place(0, "input", "attn0.input")),
    ],
)
def test_both_names_say_the_same(text, place):
    assert find_place(text, PARTS) == place


@pytest.mark.parametrize(
    "text", ["mlp2.input", "layers.9.mlp.input", "mlp1", "blocks.1.hook_mlp_in", ""]
)
def test_a_place_that_is_not_there(text, refuses):
    refuses(
        ArgumentError,
        lambda: find_place(text, PARTS),
        "place must be one of attn0.input, mlp0.input",
    )


def test_a_place_is_a_name(refuses):
    for named in (short_name, module_name, lambda text: find_place(text, PARTS)):
        refuses(ArgumentError, lambda named=named: named(3), "place must be a name, mlp0.input say")


def test_heads_have_no_joint_output(refuses):
    refuses(ArgumentError, lambda: find_place("attn0.output", PARTS), "Heads write one by one")


def test_a_hook_changes_and_leaves():
    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    before = layer(x).detach()
    with hooked(layer, "output", lambda out: out * 0):
        assert layer(x).abs().max() == 0
    with hooked(layer, "input", lambda given: given * 2):
        assert torch.allclose(layer(x), 2 * before - layer.bias)
    assert torch.equal(layer(x), before)


def test_activations_are_what_the_layer_reads_and_writes():
    ids = torch.randint(0, 1024, (6, 20), generator=torch.Generator().manual_seed(0))
    read, written = (
        torch.cat(list(activations(MODEL, ids.split(4), f"mlp1.{side}")))
        for side in ("input", "output")
    )
    assert read.shape == written.shape == (120, 128)
    tensor = MODEL.blocks[1].mlp.tensor().detach()
    assert torch.allclose(tensor(read), written, atol=1e-5)
    stream = MODEL(ids, output_hidden_states=True).hidden_states[-1].detach().flatten(0, 1)
    both = torch.cat(list(activations(MODEL, [ids], "mlp1.output")))
    assert torch.allclose(both, written, atol=1e-5)
    assert stream.shape == written.shape


# A hook acts only for the pass that set it.


def together(jobs):
    """Each job's answers, all run at once, each many times in a thread of its own."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        gate = Barrier(len(jobs))

        def many(job):
            gate.wait()
            return [job() for _ in range(12)]

        return list(pool.map(many, jobs))


def read_by(model, ids, place):
    return lambda: torch.cat(list(activations(model, [ids], place)))


def test_threads_on_one_model_give_the_numbers_of_one():
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=6,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    model = Transformer(config).double().eval()
    texts = [
        torch.randint(0, 11, (6,), generator=torch.Generator().manual_seed(n)) for n in range(4)
    ]
    at = At(torch.arange(8.0).double(), "mlp1.input")
    jobs = [lambda ids=ids: knockout(model, ids, "L0H1", 3).after for ids in texts[:2]]
    jobs += [lambda: expand(model, texts[2], at, detail="writes").forward]
    jobs += [lambda: attention_scores(model, texts[3], 1, 0, -1, 2).forward]
    jobs += [
        lambda: model(texts[3][None]).logits.detach(),
        read_by(model, texts[1][None], "mlp1.input"),
    ]
    alone = [job() for job in jobs]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads change places within a pass
    try:
        found = together(jobs)
    finally:
        sys.setswitchinterval(interval)
    for truth, answers in zip(alone, found, strict=True):
        for answer in answers:
            assert torch.equal(torch.as_tensor(answer), torch.as_tensor(truth))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_another_thread_runs_through_a_hook_untouched():
    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    before = layer(x).detach()
    with ThreadPoolExecutor(1) as pool, hooked(layer, "output", lambda out: out * 0) as hook:
        assert torch.equal(pool.submit(layer, x).result(), before)
        assert (hook.calls, hook.changed) == (0, 0)
        assert float(layer(x).abs().max()) == 0
        assert (hook.calls, hook.changed) == (1, 1)


def test_another_thread_meets_a_hook_that_is_half_set():
    """torch sets a hook in two steps, and a pass between them calls it without the arguments by
    name.
    """
    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    before = layer(x).detach()
    with ThreadPoolExecutor(1) as pool, hooked(layer, "input", lambda given: given * 0):
        layer._forward_pre_hooks_with_kwargs.clear()
        assert torch.equal(pool.submit(layer, x).result(), before)


def test_hooks_of_one_thread_nest_and_end_with_an_error():
    layer, x = torch.nn.Linear(3, 2, bias=False), torch.ones(1, 3)
    before = layer(x).detach()

    def broken():
        with (
            hooked(layer, "input", lambda given: given * 2),
            hooked(layer, "output", lambda out: out + 1),
        ):
            assert torch.allclose(layer(x), 2 * before + 1)
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert torch.equal(layer(x), before)
    assert not layer._forward_hooks


def test_tasks_that_take_turns_do_not_hear_each_other():
    layer, x = torch.nn.Linear(3, 2, bias=False), torch.ones(1, 3)
    truth = layer(x)

    async def times(factor):
        with hooked(layer, "output", lambda out: factor * out):
            await asyncio.sleep(0)  # the other task sets its hook now
            here = layer(x)
            there = await asyncio.to_thread(layer, x)  # the pass goes on in a thread
            await asyncio.sleep(0)
            return here, there

    async def both():
        return await asyncio.gather(times(2.0), times(3.0))

    for factor, answers in zip((2.0, 3.0), asyncio.run(both()), strict=True):
        assert all(torch.allclose(answer, factor * truth) for answer in answers)


def test_a_generator_may_be_finished_elsewhere():
    """Its first batch in one thread and its second in another; between them nothing is heard."""
    ids = torch.arange(12).reshape(2, 6)
    found = activations(MODEL, ids.split(1), "mlp1.output")
    first = next(found)
    MODEL(ids)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(next, found).result()
    assert torch.allclose(
        torch.cat([first, second]),
        torch.cat(list(activations(MODEL, [ids], "mlp1.output"))),
        atol=1e-5,
    )

    def suspended():
        with hooked(layer, "output", lambda out: out * 0):
            yield layer(x)

    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    kept = suspended()
    with ThreadPoolExecutor(1) as pool:
        assert float(pool.submit(next, kept).result().abs().max()) == 0
        assert float(layer(x).abs().max()) > 0
    kept.close()  # in another context than the one it began in
    assert not layer._forward_hooks


def test_what_a_hook_did_is_counted():
    layer, x = torch.nn.Linear(3, 2), torch.zeros(4, 3)
    with (
        hooked(layer, "input", lambda given: given * 0) as same,
        hooked(layer, "output", lambda out: None) as silent,
    ):
        layer(x)
        layer(input=x)  # by name
    assert (same.calls, same.changed) == (2, 0)
    assert (silent.calls, silent.changed) == (2, 0)


def test_a_part_that_the_pass_does_not_call(refuses):
    layer = torch.nn.Linear(3, 2)
    refuses(
        ArgumentError,
        lambda: hear(layer, "input", lambda: None),
        "the model's forward pass must call the modules",
    )


@pytest.mark.bad_input  # torch.compile does not see through the checks
def test_compiled_models_are_heard_too():
    torch.manual_seed(0)
    config = TransformerConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    model, ids = Transformer(config).eval(), torch.tensor([[1, 2, 3]])
    truth = knockout(model, ids, "mlp0", 3).after, read_by(model, ids, "mlp0.input")()
    model.compile(backend="eager")
    model(ids)  # compiled now
    assert knockout(model, ids, "mlp0", 3).after == pytest.approx(truth[0], rel=1e-6)
    assert torch.allclose(read_by(model, ids, "mlp0.input")(), truth[1], atol=1e-6)
