"""Whole numbers of 8 and 4 bits, and e4m3, as the floats that a product takes.

In 16 bits a byte becomes a float by moving its bits, two at a time: conversions run at a quarter to a sixteenth of the
rate of other instructions, and Triton makes several of one. A number n of 4 bits below the bits of 2^7 (in bfloat16;
2^10 in float16) is the float 128 + n (1024 + n), from which 136 (1032) is taken. The bits of e4m3 stand where the
exponent and the fraction of the wider float do, whose bias is another. All of it is exact, and gives what the plain
arithmetic gives that float32 and Triton's interpreter use.
"""

from __future__ import annotations

import triton
import triton.language as tl

E4M3_GAIN = 256.0  # what `e4m3` gives falls short by so much: as the bits of e4m3 do, read as those of a float16

_HALVES = """{{
    .reg .b32 a, b, c, d, one, less;
    mov.b32 one, {one};
    mov.b32 less, {less};
    prmt.b32 a, $4, 0, 0x4140;
    prmt.b32 b, $4, 0, 0x4342;
    shr.u32 c, a, 4;
    shr.u32 d, b, 4;
    lop3.b32 a, a, 0x000f000f, {above}, 0xea;
    lop3.b32 b, b, 0x000f000f, {above}, 0xea;
    lop3.b32 c, c, 0x000f000f, {above}, 0xea;
    lop3.b32 d, d, 0x000f000f, {above}, 0xea;
    fma.rn.{kind} $0, a, one, less;
    fma.rn.{kind} $1, b, one, less;
    fma.rn.{kind} $2, c, one, less;
    fma.rn.{kind} $3, d, one, less;
}}"""
_HALVES_BF16 = tl.constexpr(_HALVES.format(kind="bf16x2", one="0x3f803f80", less="0xc308c308", above="0x43004300"))
_HALVES_FP16 = tl.constexpr(_HALVES.format(kind="f16x2", one="0x3c003c00", less="0xe408e408", above="0x64006400"))

_E4M3_BF16 = tl.constexpr("""{
    .reg .b32 a, b, c, d, gain, zero;
    mov.b32 gain, 0x77807780;
    mov.b32 zero, 0x80008000;
    prmt.b32 a, $2, 0, 0x1404;
    prmt.b32 b, $2, 0, 0x3424;
    shr.u32 c, a, 4;
    shr.u32 d, b, 4;
    and.b32 c, c, 0x07f007f0;
    and.b32 d, d, 0x07f007f0;
    lop3.b32 c, a, 0x80008000, c, 0xea;
    lop3.b32 d, b, 0x80008000, d, 0xea;
    fma.rn.bf16x2 $0, c, gain, zero;
    fma.rn.bf16x2 $1, d, gain, zero;
}""")
_E4M3_FP16 = tl.constexpr("""{
    .reg .b32 a, b, c, d;
    prmt.b32 a, $2, 0, 0x1404;
    prmt.b32 b, $2, 0, 0x3424;
    shr.u32 c, a, 1;
    shr.u32 d, b, 1;
    and.b32 c, c, 0x3f803f80;
    and.b32 d, d, 0x3f803f80;
    lop3.b32 $0, a, 0x80008000, c, 0xea;
    lop3.b32 $1, b, 0x80008000, d, 0xea;
}""")


@triton.jit
def halves(held, DOT: tl.constexpr):
    """uint8 -> (the low four bits, the high ones), each less 8."""
    if tl.bfloat16 == DOT:
        return tl.inline_asm_elementwise(
            _HALVES_BF16, "=r,=r,=r,=r,r", [held], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
    if tl.float16 == DOT:
        return tl.inline_asm_elementwise(
            _HALVES_FP16, "=r,=r,=r,=r,r", [held], dtype=(tl.float16, tl.float16), is_pure=True, pack=4
        )
    return ((held & 15).to(tl.int16) - 8).to(DOT), ((held >> 4).to(tl.int16) - 8).to(DOT)


@triton.jit
def whole(held, DOT: tl.constexpr):
    """uint8, the bits of an int8 -> that number. Triton moves bits for it by itself."""
    return held.to(tl.int8, bitcast=True).to(DOT)


@triton.jit
def e4m3(held, DOT: tl.constexpr):
    """uint8, the bits of an e4m3 that is a number -> that number / E4M3_GAIN. No card needs to know e4m3."""
    if tl.bfloat16 == DOT:
        return tl.inline_asm_elementwise(_E4M3_BF16, "=r,=r,r", [held], dtype=tl.bfloat16, is_pure=True, pack=4)
    if tl.float16 == DOT:
        return tl.inline_asm_elementwise(_E4M3_FP16, "=r,=r,r", [held], dtype=tl.float16, is_pure=True, pack=4)
    wide = held.to(tl.uint16)
    return (((wide & 128) << 8) | ((wide & 127) << 7)).to(tl.float16, bitcast=True).to(DOT)
