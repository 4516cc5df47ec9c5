"""What numba has no words for, in LLVM's: products of pairs, and a product whose sum is rounded once.

Both are whatever the processor has; where it has none, LLVM writes them out. When this file changes, what numba keeps
of its callers is made anew (`quick.kept`).
"""

from inspect import unwrap
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16  # numbers that are summed side by side


def _emit_fused(_: Any, build: Any, __: Any, arguments: Any) -> Any:
    kind = arguments[0].type
    shape = ir.FunctionType(kind, [kind] * len(arguments))
    return build.call(build.module.declare_intrinsic("llvm.fmuladd", [kind], shape), arguments)


def _declare_fused(_: Any, one: Any, other: Any, added: Any) -> Any:
    """Multiply and add, rounded once where the processor can: of two products LLVM would choose which is fused."""
    return one(one, other, added), unwrap(_emit_fused)


multiply_add: Any = intrinsic(unwrap(_declare_fused))


def _emit_weigh(context: Any, build: Any, _: Any, arguments: Any) -> Any:
    source, step, taps, pairs, precision, blocks, out = arguments
    byte, short, word, long = (ir.IntType(bits) for bits in (8, 16, 32, 64))

    def vector(kind: Any, length: int = LANES) -> Any:
        return ir.VectorType(kind, length)

    def everywhere(value: Any) -> Any:
        first = build.insert_element(ir.Constant(vector(word), ir.Undefined), value, ir.Constant(word, 0))
        return build.shuffle_vector(first, first, ir.Constant(vector(word), [0] * LANES))

    def number(value: int) -> Any:
        return ir.Constant(vector(word), [value] * LANES)

    def at(start: Any, index: Any, bytes_: Any, kind: Any) -> Any:
        return build.inttoptr(build.add(start, build.mul(index, bytes_)), kind.as_pointer())

    shift = everywhere(build.trunc(precision, word))
    half = build.shl(number(1), build.sub(shift, number(1)))
    total = cgutils.alloca_once(build, vector(word))
    with cgutils.for_range(build, blocks) as block:
        build.store(half, total)
        first = build.add(source, build.mul(block.index, ir.Constant(long, 2 * LANES)))
        with cgutils.for_range(build, pairs) as pair:
            pixels = build.load(at(first, pair.index, step, vector(byte, 2 * LANES)), align=1)
            weights = everywhere(build.load(at(taps, pair.index, ir.Constant(long, 4), word), align=2))
            pixels = build.zext(pixels, vector(word, 2 * LANES))
            weights = build.sext(build.bitcast(weights, vector(short, 2 * LANES)), vector(word, 2 * LANES))
            products = build.mul(pixels, weights)
            even, odd = (
                build.shuffle_vector(products, products, ir.Constant(vector(word), [*range(which, 2 * LANES, 2)]))
                for which in (0, 1)
            )
            build.store(build.add(build.load(total), build.add(even, odd)), total)
        value = build.ashr(build.load(total), shift)
        value = build.select(build.icmp_signed("<", value, number(0)), number(0), value)
        value = build.select(build.icmp_signed(">", value, number(255)), number(255), value)
        build.store(
            build.trunc(value, vector(byte)), at(out, block.index, ir.Constant(long, LANES), vector(byte)), align=1
        )
    return context.get_dummy_value()


def _declare_weigh(
    _: Any, _source: Any, _step: Any, _taps: Any, _pairs: Any, _precision: Any, _blocks: Any, _out: Any
) -> Any:
    """Make a line: 16 numbers a block, each the sum of pairs of bytes, weighed, rounded and clamped.

    Called with the address of the first pair of bytes, how many bytes farther the next pair of the same number lies,
    the address of the weights, the number of pairs, the precision (weights are multiples of 2 to the power of minus
    this), the number of blocks, and the address of the bytes that are made.
    """
    return types.void(*[types.int64] * 7), unwrap(_emit_weigh)


weigh: Any = intrinsic(unwrap(_declare_weigh))
