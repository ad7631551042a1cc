// Does this CPU, under this operating system, run a level? (System V psABI, x86-64 microarchitecture levels.)
#pragma once

namespace onepass::runtime {

bool has_baseline();
bool has_x86_64_v2();
bool has_x86_64_v3();
bool has_x86_64_v4();

}  // namespace onepass::runtime
