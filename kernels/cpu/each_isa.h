// Compiles the file BODY once for each instruction set, each in a namespace of that name: one binary serves all machines.
// BODY is written with what simd.h offers, and marks its functions TARGET. Templates, not lambdas: a lambda would not
// take the target of the function around it.
#include "isa.h"

#ifdef QUIRE_X86
#include <immintrin.h>
#endif
#include <cmath>
#include <cstring>

#define ISA plain
#define ISA_PLAIN
#define TARGET
#include "simd.h"
#include BODY
#undef ISA
#undef ISA_PLAIN
#undef TARGET

#ifdef QUIRE_X86

#define ISA avx2
#define ISA_AVX2
#define TARGET __attribute__((target("avx2,fma,f16c")))
#include "simd.h"
#include BODY
#undef ISA
#undef ISA_AVX2
#undef TARGET

#define ISA avx512
#define ISA_AVX512
#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,f16c")))
#include "simd.h"
#include BODY
#undef ISA
#undef TARGET

#define ISA avx512vnni
#define ISA_VNNI
#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx512vnni,avx2,fma,f16c")))
#include "simd.h"
#include BODY
#undef ISA
#undef TARGET

#define ISA avx512bf16
#define ISA_BF16
#define TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx512vnni,avx512bf16,avx2,fma,f16c")))
#include "simd.h"
#include BODY
#undef ISA
#undef ISA_BF16
#undef ISA_VNNI
#undef ISA_AVX512
#undef TARGET

#endif
