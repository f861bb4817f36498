"""Costs read off the text of compiled modules: hand-written ones, and ones that XLA has counted itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icegrt_jax.plan.collectives import replica_groups
from icegrt_jax.plan.costs import Decoding, module_costs
from icegrt_jax.plan.hlo import Shape, arrays_in, parse

# A loop of ten steps: gathers a weight, multiplies, keeps the row in on-chip memory S(1).
LOOP = """\
HloModule loop, is_scheduled=true

%slice (stack: bf16[10,32,64], i: s32[]) -> bf16[32,64] {
  %stack = bf16[10,32,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %zero = s32[] constant(0)
  %cut = bf16[1,32,64]{2,1,0:T(8,128)(2,1)} dynamic-slice(%stack, %i, %zero, %zero), dynamic_slice_sizes={1,32,64}
  ROOT %flat = bf16[32,64]{1,0:T(8,128)(2,1)} bitcast(%cut)
}

%body (arg: (s32[], bf16[16,64], bf16[10,32,64])) -> (s32[], bf16[16,64], bf16[10,32,64]) {
  %arg = (s32[]{:T(128)}, bf16[16,64]{1,0:T(8,128)(2,1)S(1)}, bf16[10,32,64]{2,1,0}) parameter(0)
  %count = s32[] get-tuple-element(%arg), index=0
  %row = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%arg), index=1
  %all = bf16[10,32,64]{2,1,0} get-tuple-element(%arg), index=2
  %part = bf16[32,64]{1,0} fusion(%all, %count), kind=kLoop, calls=%slice, metadata={op_name="a(b, c)"}
  %whole = bf16[64,64]{1,0} all-gather(%part), channel_id=1, replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}
  %next = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} convolution(%row, %whole), dim_labels=bf_io->bf
  %one = s32[] constant(1)
  %more = s32[] add(%count, %one)
  ROOT %out = (s32[], bf16[16,64]{1,0:S(1)}, bf16[10,32,64]{2,1,0}) tuple(%more, %next, %all)
}

%condition (arg.1: (s32[], bf16[16,64], bf16[10,32,64])) -> pred[] {
  %arg.1 = (s32[], bf16[16,64]{1,0:S(1)}, bf16[10,32,64]{2,1,0}) parameter(0)
  %at = s32[] get-tuple-element(%arg.1), index=0
  %end = s32[] constant(10)
  ROOT %less = pred[] compare(%at, %end), direction=LT
}

ENTRY %main (w: bf16[10,32,64], x: bf16[16,64]) -> bf16[16,64] {
  %w = bf16[10,32,64]{2,1,0} parameter(0)
  %x = bf16[16,64]{1,0} parameter(1)
  %start = s32[] constant(0)
  %begin = (s32[], bf16[16,64]{1,0}, bf16[10,32,64]{2,1,0}) tuple(%start, %x, %w)
  %loop = (s32[], bf16[16,64]{1,0:S(1)}, bf16[10,32,64]{2,1,0}) while(%begin), condition=%condition, body=%body
  ROOT %result = bf16[16,64]{1,0} get-tuple-element(%loop), index=1
}
"""
EARLY = LOOP.replace(
    "  ROOT %less = pred[] compare(%at, %end), direction=LT",
    "  %less = pred[] compare(%at, %end), direction=LT\n  ROOT %both = pred[] and(%less, %less)",
)


def test_types_are_read_with_their_memory_space():
    tuple_type = "(s32[]{:T(128)}, bf16[16,4096]{1,0:T(8,128)(2,1)S(1)}, pred[3]{0})"
    assert arrays_in(tuple_type) == (Shape("s32", ()), Shape("bf16", (16, 4096), 1), Shape("pred", (3,)))
    assert [shape.bytes for shape in arrays_in(tuple_type)] == [4, 131072, 3]
    assert Shape("s4", (3,)).bytes == 2 and Shape("f8e4m3fn", (5,)).bytes == 5


def test_a_module_is_read_as_computations_and_instructions():
    module = parse(LOOP)
    assert module.entry == "main" and set(module.computations) == {"slice", "body", "condition", "main"}
    fusion = module.computations["body"]["part"]
    assert (fusion.opcode, fusion.operands, fusion.called) == ("fusion", ("all", "count"), {"calls": "slice"})
    loop = module.computations["main"]["loop"]
    assert loop.called == {"condition": "condition", "body": "body"} and len(loop.shapes) == 3
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule nothing")


def test_a_loop_counts_as_often_as_it_runs():
    costs = module_costs(parse(LOOP))[""]
    assert costs.flops == 10 * 2 * 16 * 64 * 64
    # Gathered from 32 to 64 rows over 2 chips: each sends its half.
    assert costs.by_kind() == {"all-gather": 10 * 32 * 64 * 2}
    # The slice of the stack is read and written, the gather reads it and writes the whole, which the product reads;
    # the row never leaves the chip; the counter is 4 bytes three times (read by the slice, read and written by add).
    part, whole = 32 * 64 * 2, 64 * 64 * 2
    assert costs.hbm_bytes == 10 * (part + part + part + whole + whole + 4 + (4 + 4 + 4))


def test_a_loop_that_xla_has_unrolled_runs_fewer_times():
    unrolled = LOOP.replace("%one = s32[] constant(1)", "%one = s32[] constant(2)")
    assert module_costs(parse(unrolled))[""].flops == 5 * 2 * 16 * 64 * 64
    twice = LOOP.replace("  ROOT %out", "  %again = s32[] add(%more, %one)\n  ROOT %out")
    assert module_costs(parse(twice.replace("tuple(%more", "tuple(%again")))[""].flops == 5 * 2 * 16 * 64 * 64


def test_a_slice_behind_another_tiling_counts_the_slice():
    tiling = """%tiling (w: bf16[10,32,64]) -> bf16[10,32,64] {
  %w = bf16[10,32,64]{2,1,0:T(8,128)} parameter(0)
  ROOT %same = bf16[10,32,64]{2,1,0:T(16,128)} copy(%w)
}

"""
    tiled = "  %tiled = bf16[10,32,64]{2,1,0} fusion(%stack), calls=%tiling\n  %cut"
    text = LOOP.replace("%slice (", f"{tiling}%slice (").replace("  %cut", tiled, 1)
    text = text.replace("dynamic-slice(%stack", "dynamic-slice(%tiled")
    assert module_costs(parse(text))[""].hbm_bytes == module_costs(parse(LOOP))[""].hbm_bytes


WOVEN = """\
HloModule woven

%begin (p: f32[2,16]) -> (f32[2,16], f32[8,16]) {
  %p = f32[2,16]{1,0} parameter(0)
  %g = f32[8,16]{1,0} all-gather(%p), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %c = (f32[2,16]{1,0}, f32[8,16]{1,0}) custom-call(%g), custom_call_target="Start"
}

%go_on (q: f32[2,16], buffer: f32[8,16], x: f32[4,4]) -> (f32[4,4], f32[2,16], f32[8,16], f32[8,16]) {
  %q = f32[2,16]{1,0} parameter(0)
  %buffer = f32[8,16]{1,0} parameter(1)
  %x = f32[4,4]{1,0} parameter(2)
  %y = f32[4,4]{1,0} add(%x, %x)
  %h = f32[8,16]{1,0} all-gather(%q), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %t = (f32[4,4]{1,0}, f32[2,16]{1,0}, f32[8,16]{1,0}, f32[8,16]{1,0}) tuple(%y, %q, %buffer, %h)
}

ENTRY %main (a: f32[2,16], x: f32[4,4]) -> f32[4,4] {
  %a = f32[2,16]{1,0} parameter(0)
  %x.1 = f32[4,4]{1,0} parameter(1)
  %f = (f32[2,16]{1,0}, f32[8,16]{1,0}) fusion(%a), kind=kCustom, calls=%begin
  %own = f32[2,16]{1,0} get-tuple-element(%f), index=0
  %room = f32[8,16]{1,0} get-tuple-element(%f), index=1
  %f.1 = (f32[4,4]{1,0}, f32[2,16]{1,0}, f32[8,16]{1,0}, f32[8,16]{1,0}) fusion(%own, %room, %x.1), calls=%go_on
  ROOT %r = f32[4,4]{1,0} get-tuple-element(%f.1), index=0
}
"""


def test_a_collective_that_is_woven_into_several_fusions_is_sent_once():
    costs = module_costs(parse(WOVEN))[""]
    assert costs.by_kind() == {"all-gather": 8 * 16 * 4 * 3 / 4}
    part, whole, own = 2 * 16 * 4, 8 * 16 * 4, 4 * 4 * 4
    # The part is read, and written with the whole; then the part is read again, and what is added read and written.
    assert costs.hbm_bytes == (part + part + whole) + (part + own + own)
    # Also where it goes on within a loop or a call, whose fusions have its channel.
    going_on = next(line for line in WOVEN.splitlines() if line.startswith("  %f.1 = "))
    called = (
        """%inside (own: f32[2,16], room: f32[8,16], x.1: f32[4,4]) -> (f32[4,4], f32[2,16]) {
  %own = f32[2,16]{1,0} parameter(0)
  %room = f32[8,16]{1,0} parameter(1)
  %x.1 = f32[4,4]{1,0} parameter(2)
"""
        + going_on.replace("  %f.1", "  ROOT %f.1")
        + "\n}\n\n"
    )
    text = WOVEN.replace(going_on, going_on.replace("fusion(", "call(").replace("calls=%go_on", "to_apply=%inside"))
    text = text.replace("ENTRY", called + "ENTRY").replace("%f = ", "%async-collective-start = ")
    assert module_costs(parse(text.replace("(%f)", "(%async-collective-start)")))[""].by_kind() == costs.by_kind()


def test_a_loop_that_ends_with_the_data_runs_as_often_as_is_said():
    parts = module_costs(parse(EARLY), Decoding(steps=7))
    assert parts["decode"].flops == 7 * 2 * 16 * 64 * 64 and parts["prefill"].flops == 0
    assert module_costs(parse(EARLY))[""].flops == 10 * 2 * 16 * 64 * 64, "by its constant where nothing is said"


@pytest.mark.parametrize(
    "text, groups",
    [
        ("replica_groups={{0,2},{1,3}}, x=1", ((0, 2), (1, 3))),
        ("replica_groups=[2,2]<=[4], x=1", ((0, 1), (2, 3))),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", ((0, 2, 4, 6), (1, 3, 5, 7))),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
        ("channel_id=1", ()),
    ],
)
def test_groups_are_read_however_they_are_written(text, groups):
    assert replica_groups(text) == groups


def entry(*lines):
    parameters = "  %a = f32[8,16]{1,0} parameter(0)\n  %b = f32[16,4]{1,0} parameter(1)\n"
    body = "".join(f"  {line}\n" for line in lines)
    return f"HloModule m\n\nENTRY %main (a: f32[8,16], b: f32[16,4]) -> f32[8,4] {{\n{parameters}{body}}}\n"


@pytest.mark.parametrize(
    "line, flops",
    [
        ("ROOT %r = f32[8,4]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}", 2 * 8 * 4 * 16),
        ("ROOT %r = f32[8,4]{1,0} convolution(%a, %b), dim_labels=bf_io->bf", 2 * 8 * 4 * 16),
        ("ROOT %r = f32[8,4]{1,0} custom-call(%a), custom_call_target=\"k\", "
         'backend_config={"cost_estimate":{"flops":"77","bytes_accessed":"3"}}', 77),
        ("%q = bf16[2,4,256,128]{3,2,1,0} parameter(2)\n  ROOT %splash_mha_dq.1 = f32[2,4,256,128]{3,2,1,0} "
         'custom-call(%a, %q, %q), frontend_attributes={kernel_metadata={\n"block": 1\n}}, metadata={}',
         3 * 2 * 2 * 4 * 128 * 256 * 256 / 2),
        ("%n = s8[1,4,4]{2,1,0} parameter(2)\n  %q = bf16[4,256,128]{2,1,0} parameter(3)\n"
         "  ROOT %splash_mha_fwd.1 = bf16[4,256,128]{2,1,0} custom-call(%n, %q, %q), metadata={}",
         2 * 2 * 4 * 128 * 256 * 256 / 2),
        ("ROOT %r = f32[8,16]{1,0} add(%a, %a)", 0),
    ],
)  # fmt: skip
def test_matrix_products_are_counted_and_nothing_else(line, flops):
    assert module_costs(parse(entry(line)))[""].flops == flops


def test_an_instruction_of_several_lines_does_not_end_its_computation():
    kernel = '%k = f32[8,16]{1,0} custom-call(%a), frontend_attributes={kernel_metadata={\n"block": 1\n}}, metadata={}'
    product = "ROOT %r = f32[8,4]{1,0} dot(%k, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    assert module_costs(parse(entry(kernel, product)))[""].flops == 2 * 8 * 4 * 16


def test_a_batch_of_products_written_as_a_dilated_convolution_counts_each_once():
    text = entry(
        "%l = f32[3,8,16]{2,1,0} parameter(2)", "%r = f32[3,16,4]{2,1,0} parameter(3)",
        "ROOT %out = f32[3,8,4]{2,1,0} convolution(%l, %r), window={size=3 stride=2 pad=0_0 lhs_dilate=3}, "
        "dim_labels=0bf_0io->0bf",
    )  # fmt: skip
    assert module_costs(parse(text))[""].flops == 3 * 2 * 8 * 16 * 4


def test_an_all_reduce_of_which_a_slice_is_kept_is_a_reduce_scatter():
    text = """\
HloModule m

%scatter (p: f32[8,16]) -> f32[2,16] {
  %p = f32[8,16]{1,0} parameter(0)
  %sum = f32[8,16]{1,0} all-reduce(%p), replica_groups={{0,1,2,3}}, to_apply=%add
  %i = s32[] constant(0)
  ROOT %own = f32[2,16]{1,0} dynamic-slice(%sum, %i, %i), dynamic_slice_sizes={2,16}
}

ENTRY %main (a: f32[8,16]) -> f32[2,16] {
  %a = f32[8,16]{1,0} parameter(0)
  ROOT %r = f32[2,16]{1,0} fusion(%a), kind=kCustom, calls=%scatter
}
"""
    sent = 8 * 16 * 4 * 3 / 4
    assert module_costs(parse(text))[""].by_kind() == {"reduce-scatter": sent}
    whole = entry("ROOT %r = f32[8,16]{1,0} all-reduce(%a), replica_groups={{0,1,2,3}}, to_apply=%add")
    assert module_costs(parse(whole))[""].by_kind() == {"all-reduce": 2 * sent}


def test_an_update_in_place_writes_the_update_only():
    text = entry(
        "%u = f32[1,16]{1,0} parameter(2)", "%i = s32[] constant(0)",
        "ROOT %r = f32[8,16]{1,0} dynamic-update-slice(%a, %u, %i, %i)",
    )  # fmt: skip
    assert module_costs(parse(text))[""].hbm_bytes == 2 * 16 * 4


LAYERS, WIDTH = 5, 32


def product(w, x):
    return jnp.tanh(x @ w["in"]) @ w["out"]


def scanned(w, x):
    return jnp.sum(jnp.sin(jax.lax.scan(lambda x, w: (product(w, x), None), x, w)[0]))


def unrolled(w, x):
    for i in range(LAYERS):
        x = product({name: leaf[i] for name, leaf in w.items()}, x)
    return jnp.sum(jnp.sin(x))


def test_a_scan_and_its_gradient_count_what_xla_counts_of_the_same_layers_unrolled():
    w = {"in": jnp.ones((LAYERS, WIDTH, 64)), "out": jnp.ones((LAYERS, 64, WIDTH))}
    x = jnp.ones((16, WIDTH))
    compiled = [jax.jit(jax.grad(fn, argnums=(0, 1))).lower(w, x).compile() for fn in (scanned, unrolled)]
    ours = [module_costs(parse(one.as_text()))[""].flops for one in compiled]
    forward = LAYERS * 2 * (2 * 16 * WIDTH * 64)
    assert ours[0] == ours[1] == 3 * forward, "three products for each of the forward pass"
    theirs = [one.cost_analysis()["flops"] for one in compiled]
    np.testing.assert_allclose(ours[1], theirs[1], rtol=0.1)  # XLA adds what is elementwise
    assert theirs[0] < 0.5 * ours[0], "XLA counts the body of a scan once: why this module exists"
