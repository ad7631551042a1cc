# Instruction-set levels: the only file that names -m flags. One OBJECT library per level from the same table.cpp.
#
# onepass_add_isa_levels(SOURCES out INCLUDE_DIR out) returns the objects to link and the folder of the generated
# onepass_isa_levels.def, which lists the levels of this build for runtime/dispatch.cpp.

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(levels x86-64-v2 x86-64-v3 x86-64-v4)
  set(ONEPASS_ISA_FLAGS_x86-64-v2 -march=x86-64-v2)
  set(ONEPASS_ISA_FLAGS_x86-64-v3 -march=x86-64-v3)
  set(ONEPASS_ISA_FLAGS_x86-64-v4 -march=x86-64-v4 -mprefer-vector-width=512)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(levels aarch64)
else()
  set(levels generic)
endif()
set(ONEPASS_ISA_LEVELS "${levels}" CACHE STRING "Instruction-set levels to build, lowest first")

# Always optimized, also in debug builds; never fused multiply-add, never link-time optimized: the bits are part of the
# contract. -fno-math-errno and -fno-trapping-math change no bit and let sqrt and selects vectorize. Sanitized kernels
# are compiled with -O1, to the same bits in a third of the time.
if(ONEPASS_SANITIZE)
  set(ONEPASS_KERNEL_FLAGS -O1)
else()
  set(ONEPASS_KERNEL_FLAGS -O3)
endif()
list(APPEND ONEPASS_KERNEL_FLAGS -ffp-contract=off -fno-math-errno -fno-trapping-math -fno-lto -fno-exceptions -fno-rtti)

function(onepass_add_isa_levels)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "OBJECTS;INCLUDE_DIR" "")
  set(objects)
  set(lines)
  foreach(level IN LISTS ONEPASS_ISA_LEVELS)
    string(REPLACE "-" "_" id ${level})
    set(target onepass_kernels_${id})
    add_library(${target} OBJECT csrc/kernels/table.cpp)
    target_include_directories(${target} PRIVATE csrc csrc/include)
    target_compile_definitions(${target} PRIVATE ONEPASS_TABLE=onepass_table_${id} "ONEPASS_ISA_NAME=\"${level}\"")
    target_compile_options(${target} PRIVATE ${ONEPASS_KERNEL_FLAGS} ${ONEPASS_ISA_FLAGS_${level}} ${ONEPASS_WARNINGS})
    set_target_properties(${target} PROPERTIES INTERPROCEDURAL_OPTIMIZATION OFF)
    list(APPEND objects $<TARGET_OBJECTS:${target}>)
    set(check has_baseline)
    if(id MATCHES "^x86_64_v[234]$")
      set(check has_${id})
    endif()
    string(APPEND lines "ONEPASS_ISA_LEVEL(onepass_table_${id}, \"${level}\", ${check})\n")
  endforeach()
  set(generated ${CMAKE_CURRENT_BINARY_DIR}/generated)
  file(CONFIGURE OUTPUT ${generated}/onepass_isa_levels.def CONTENT "${lines}")
  set(${arg_OBJECTS} ${objects} PARENT_SCOPE)
  set(${arg_INCLUDE_DIR} ${generated} PARENT_SCOPE)
endfunction()
