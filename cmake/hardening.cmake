# Warnings and the OpenSSF hardening flags; each flag is probed, none assumed from a version.
include(CheckCXXCompilerFlag)
include(CheckLinkerFlag)

add_library(meshnode_flags INTERFACE)
target_compile_options(meshnode_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wformat=2
  -Wimplicit-fallthrough -Wnon-virtual-dtor -Woverloaded-virtual -Werror)

function(meshnode_probe_flags)
  foreach(flag ${ARGN})
    string(MAKE_C_IDENTIFIER "HAS${flag}" var)
    # -Werror: clang accepts unknown -f flags with a warning only.
    set(CMAKE_REQUIRED_FLAGS "-Werror -O2")
    check_cxx_compiler_flag("${flag}" ${var})
    if(${var})
      target_compile_options(meshnode_flags INTERFACE ${flag})
    endif()
  endforeach()
endfunction()

meshnode_probe_flags(
  -Wtrampolines -Wbidi-chars=any -fstack-clash-protection -fstack-protector-strong
  -fcf-protection=full -fno-delete-null-pointer-checks -fno-strict-overflow -fno-strict-aliasing
  -ftrivial-auto-var-init=zero -fstrict-flex-arrays=3 -fzero-init-padding-bits=all)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64")
  meshnode_probe_flags(-mbranch-protection=standard)
endif()

foreach(flag -Wl,-z,nodlopen -Wl,-z,noexecstack -Wl,-z,relro -Wl,-z,now -Wl,--as-needed
             -Wl,--no-copy-dt-needed-entries)
  string(MAKE_C_IDENTIFIER "LINKS${flag}" var)
  check_linker_flag(CXX "${flag}" ${var})
  if(${var})
    target_link_options(meshnode_flags INTERFACE ${flag})
  endif()
endforeach()

target_compile_options(meshnode_flags INTERFACE -fPIE -g1
                       "-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=")
target_link_options(meshnode_flags INTERFACE -pie)
target_compile_definitions(meshnode_flags INTERFACE _GLIBCXX_ASSERTIONS
                           "MESHNODE_VERSION=\"${PROJECT_VERSION}\"")

if(MESHNODE_SANITIZE)
  target_compile_options(meshnode_flags INTERFACE -fsanitize=${MESHNODE_SANITIZE}
                         -fno-sanitize-recover=all -fno-omit-frame-pointer -O1)
  target_link_options(meshnode_flags INTERFACE -fsanitize=${MESHNODE_SANITIZE})
elseif(CMAKE_BUILD_TYPE STREQUAL "Debug")
  target_compile_options(meshnode_flags INTERFACE -O0)
else()
  target_compile_options(meshnode_flags INTERFACE -O2 -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3)
endif()
if(MESHNODE_FUZZ)
  target_compile_options(meshnode_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
