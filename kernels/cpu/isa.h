// Which instruction sets there are, which this machine has, and which one is in use.
#pragma once

#include <cstdint>

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define QUIRE_X86 1
#endif

namespace quire {

enum class Isa { plain, avx2, avx512, avx512vnni, avx512bf16 };

constexpr Isa all_isas[] = {Isa::plain, Isa::avx2, Isa::avx512, Isa::avx512vnni, Isa::avx512bf16};

inline const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::avx512bf16: return "avx512bf16";
    case Isa::avx512vnni: return "avx512vnni";
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "plain";
  }
}

inline bool has(Isa isa) {
#ifdef QUIRE_X86
  switch (isa) {
    case Isa::avx512bf16: return has(Isa::avx512vnni) && __builtin_cpu_supports("avx512bf16");
    case Isa::avx512vnni: return has(Isa::avx512) && __builtin_cpu_supports("avx512vnni");
    case Isa::avx512:
      return has(Isa::avx2) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    default: return true;
  }
#else
  return isa == Isa::plain;
#endif
}

// The function f of the namespace of an instruction set, as `PICK(isa, f)`.
#ifdef QUIRE_X86
#define PICK(isa, f)                                                                  \
  ((isa) == Isa::avx512bf16 ? avx512bf16::f : (isa) == Isa::avx512vnni ? avx512vnni::f \
   : (isa) == Isa::avx512   ? avx512::f     : (isa) == Isa::avx2       ? avx2::f       : plain::f)
#else
#define PICK(isa, f) plain::f
#endif

}  // namespace quire
