# meshnode_room(name DEPENDS room... PRIVATE_LIBS target... TEST_DEPENDS room...): src/<name>/ as a
# static library, and tests/<name>/*_test.cc as the program <name>_test, which links this room only,
# and TEST_DEPENDS where tests put the room on a real seam.
enable_testing()

if(MESHNODE_TESTS)
  add_library(meshnode_test_main STATIC tests/test_main.cc)
  target_link_libraries(meshnode_test_main PUBLIC meshnode_test_libs meshnode_flags)
endif()

function(meshnode_room name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;PRIVATE_LIBS;TEST_DEPENDS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cc)
  if(NOT sources)
    message(FATAL_ERROR "room ${name} has no source in src/${name}")
  endif()
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/rooms/${name})
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/src/${name} ${CMAKE_BINARY_DIR}/rooms/${name}/${name}
       SYMBOLIC)
  add_library(${name} STATIC ${sources})
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR}/include
                                            ${CMAKE_BINARY_DIR}/rooms/${name})
  target_link_libraries(${name} PUBLIC meshnode_flags tl::expected ${ARG_DEPENDS}
                                PRIVATE ${ARG_PRIVATE_LIBS})
  set_target_properties(${name} PROPERTIES MESHNODE_PRIVATE_LIBS "${ARG_PRIVATE_LIBS}")

  file(GLOB tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${name}/*_test.cc)
  if(MESHNODE_TESTS AND tests)
    add_executable(${name}_test ${tests})
    target_include_directories(${name}_test PRIVATE ${CMAKE_SOURCE_DIR}/tests)
    target_compile_definitions(${name}_test PRIVATE "MESHNODE_SOURCE_DIR=\"${CMAKE_SOURCE_DIR}\"")
    target_link_libraries(${name}_test PRIVATE ${name} ${ARG_TEST_DEPENDS} meshnode_test_main
                          ${ARG_PRIVATE_LIBS})
    add_test(NAME ${name} COMMAND ${name}_test)
    set_tests_properties(${name} PROPERTIES TIMEOUT 300)
  endif()
endfunction()

# tests/fuzz/<room>_<what>_fuzz.cc links <room>, and the room's own libraries to play its peers, and
# is the libFuzzer program <room>_<what>_fuzz; its corpus is tests/fuzz/corpus/<room>_<what>/. The
# target `fuzzers` builds all of them.
function(meshnode_fuzzers)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "MESHNODE_FUZZ needs clang: configure with -DCMAKE_CXX_COMPILER=clang++-14")
  endif()
  add_custom_target(fuzzers)
  file(GLOB fuzzers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/fuzz/*_fuzz.cc)
  foreach(source ${fuzzers})
    get_filename_component(target ${source} NAME_WE)
    string(REGEX REPLACE "_.*" "" room ${target})
    add_executable(${target} ${source})
    get_target_property(own_libs ${room} MESHNODE_PRIVATE_LIBS)
    target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
    target_link_libraries(${target} PRIVATE ${room} ${own_libs})
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
    add_dependencies(fuzzers ${target})
  endforeach()
endfunction()
