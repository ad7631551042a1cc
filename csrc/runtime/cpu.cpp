#include "runtime/cpu.hpp"

#include <cstdint>

namespace onepass::runtime {

bool has_baseline() { return true; }

}  // namespace onepass::runtime

#if defined(__x86_64__)
#include <cpuid.h>

namespace onepass::runtime {
namespace {

struct Leaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Leaf leaf(unsigned number) {
  Leaf r;
  __get_cpuid_count(number, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool all(unsigned bits, unsigned wanted) { return (bits & wanted) == wanted; }

// Register state that the operating system saves (XCR0): bits 1-2 are SSE and AVX, 5-7 are AVX-512.
bool saves(unsigned wanted) {
  if (!all(leaf(1).ecx, bit_OSXSAVE)) return false;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return all(low, wanted);
}

}  // namespace

bool has_x86_64_v2() {
  return all(leaf(1).ecx, bit_SSE3 | bit_SSSE3 | bit_SSE4_1 | bit_SSE4_2 | bit_POPCNT | bit_CMPXCHG16B) &&
         all(leaf(0x80000001).ecx, bit_LAHF_LM);
}

bool has_x86_64_v3() {
  constexpr unsigned lzcnt = 1u << 5;
  return has_x86_64_v2() && saves(0x06) && all(leaf(1).ecx, bit_AVX | bit_FMA | bit_F16C | bit_MOVBE) &&
         all(leaf(7).ebx, bit_AVX2 | bit_BMI | bit_BMI2) && all(leaf(0x80000001).ecx, lzcnt);
}

bool has_x86_64_v4() {
  return has_x86_64_v3() && saves(0xe6) &&
         all(leaf(7).ebx, bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL);
}

}  // namespace onepass::runtime
#endif
