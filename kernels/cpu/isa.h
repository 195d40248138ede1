// Which instruction sets there are, which this machine has, and which one is in use.
#pragma once

#include <cstdint>

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define QUIRE_X86 1
#endif

namespace quire {

enum class Isa { plain, avx2, avx512 };

constexpr Isa all_isas[] = {Isa::plain, Isa::avx2, Isa::avx512};

inline const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "plain";
  }
}

inline bool has(Isa isa) {
#ifdef QUIRE_X86
  switch (isa) {
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    case Isa::avx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    default: return true;
  }
#else
  return isa == Isa::plain;
#endif
}

}  // namespace quire
