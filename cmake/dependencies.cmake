# What meshnode links. Nothing here may pull in OpenSSL: its symbols and BoringSSL's are the same
# names, and one process with both is a process with neither.
find_package(PkgConfig REQUIRED)
pkg_check_modules(LIBUV REQUIRED IMPORTED_TARGET libuv>=1.44)
pkg_check_modules(LIBMNL REQUIRED IMPORTED_TARGET libmnl)
pkg_check_modules(NGHTTP2 REQUIRED IMPORTED_TARGET libnghttp2)
pkg_check_modules(YAML REQUIRED IMPORTED_TARGET yaml-0.1)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(tl-expected REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(Threads REQUIRED)

# prometheus-cpp's CMake package drags in curl; its core is one library.
find_library(PROMETHEUS_CORE prometheus-cpp-core REQUIRED)
add_library(meshnode_prometheus INTERFACE)
target_link_libraries(meshnode_prometheus INTERFACE ${PROMETHEUS_CORE})

add_library(meshnode_boringssl INTERFACE)
if(MESHNODE_BORINGSSL_ROOT)
  find_library(BORINGSSL_SSL libssl.a PATHS ${MESHNODE_BORINGSSL_ROOT} PATH_SUFFIXES lib . build
               NO_DEFAULT_PATH REQUIRED)
  find_library(BORINGSSL_CRYPTO libcrypto.a PATHS ${MESHNODE_BORINGSSL_ROOT}
               PATH_SUFFIXES lib . build NO_DEFAULT_PATH REQUIRED)
  target_include_directories(meshnode_boringssl SYSTEM INTERFACE ${MESHNODE_BORINGSSL_ROOT}/include)
  target_link_libraries(meshnode_boringssl INTERFACE ${BORINGSSL_SSL} ${BORINGSSL_CRYPTO}
                                                     Threads::Threads)
  target_link_options(meshnode_boringssl INTERFACE
                      -Wl,--exclude-libs,libssl.a:libcrypto.a)
else()
  set(android_lib /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/android)
  find_library(BORINGSSL_SSL ssl PATHS ${android_lib} NO_DEFAULT_PATH REQUIRED)
  find_library(BORINGSSL_CRYPTO crypto PATHS ${android_lib} NO_DEFAULT_PATH REQUIRED)
  target_include_directories(meshnode_boringssl SYSTEM INTERFACE /usr/include/android)
  target_link_libraries(meshnode_boringssl INTERFACE ${BORINGSSL_SSL} ${BORINGSSL_CRYPTO})
  set(CMAKE_BUILD_RPATH ${android_lib})
  set(CMAKE_INSTALL_RPATH ${android_lib})
endif()

if(MESHNODE_TESTS)
  find_path(CATCH2_INCLUDE catch2/catch.hpp REQUIRED)
  find_library(RAPIDCHECK rapidcheck REQUIRED)
  add_library(meshnode_test_libs INTERFACE)
  target_include_directories(meshnode_test_libs SYSTEM INTERFACE ${CATCH2_INCLUDE})
  target_link_libraries(meshnode_test_libs INTERFACE ${RAPIDCHECK})
endif()
