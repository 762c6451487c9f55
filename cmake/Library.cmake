# libclawsync, shared and static: every room that the engine stands on, in one file, with the engine's public functions as
# its only exports; and what finds it once installed (clawsync.pc, the CMake package Clawsync).
if(NOT TARGET cs_engine)
  return()
endif()
include(CMakePackageConfigHelpers)

set(rooms base crypto crdt delta replica queue audit identity rpc engine proto)
set(uses PkgConfig::sqlite3 PkgConfig::libsodium PkgConfig::libuv PkgConfig::libnghttp2 PkgConfig::protobuf
  PkgConfig::libzstd PkgConfig::liblz4 PkgConfig::zlib PkgConfig::jansson OpenSSL::SSL OpenSSL::Crypto Threads::Threads m)
# The same as linker flags: what a program that links the static library names too.
set(CLAWSYNC_PRIVATE_LIBS ${sqlite3_LDFLAGS} ${libsodium_LDFLAGS} ${libuv_LDFLAGS} ${libnghttp2_LDFLAGS}
  ${protobuf_LDFLAGS} ${libzstd_LDFLAGS} ${liblz4_LDFLAGS} ${zlib_LDFLAGS} ${jansson_LDFLAGS} -lssl -lcrypto -pthread -lm)
if(TARGET cs_blake3)
  list(APPEND rooms blake3)
else()
  list(APPEND uses Blake3::Blake3)
  list(APPEND CLAWSYNC_PRIVATE_LIBS ${LIBBLAKE3_LDFLAGS})
endif()
list(REMOVE_DUPLICATES CLAWSYNC_PRIVATE_LIBS)
list(TRANSFORM rooms REPLACE "(.+)" "$<TARGET_OBJECTS:cs_\\1>" OUTPUT_VARIABLE objects)

add_library(clawsync SHARED ${objects})
target_link_libraries(clawsync PRIVATE cs_warnings ${uses})
target_link_options(clawsync PRIVATE -Wl,--as-needed -Wl,--version-script=${CMAKE_CURRENT_LIST_DIR}/clawsync.map)
if(NOT CS_SANITIZE) # a sanitizer's runtime is the program's
  target_link_options(clawsync PRIVATE -Wl,-z,defs)
endif()
include(CheckLinkerFlag)
check_linker_flag(C -Wl,-z,pack-relative-relocs CS_PACKS_RELOCATIONS)
if(CS_PACKS_RELOCATIONS)
  target_link_options(clawsync PRIVATE -Wl,-z,pack-relative-relocs)
endif()
set_target_properties(clawsync PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR} LINKER_LANGUAGE C
  LINK_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/clawsync.map)

add_library(clawsync_static STATIC ${objects})
target_link_libraries(clawsync_static INTERFACE "$<BUILD_INTERFACE:${uses}>" "$<INSTALL_INTERFACE:${CLAWSYNC_PRIVATE_LIBS}>")
set_target_properties(clawsync_static PROPERTIES OUTPUT_NAME clawsync LINKER_LANGUAGE C)

foreach(library clawsync clawsync_static)
  target_include_directories(${library} INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
endforeach()

# Everything below is found from where it lies, so that an installed tree may be moved.
install(TARGETS clawsync clawsync_static EXPORT ClawsyncTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/include/clawsync DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT ClawsyncTargets NAMESPACE Clawsync:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Clawsync)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/ClawsyncConfig.cmake.in ${CMAKE_BINARY_DIR}/ClawsyncConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Clawsync NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/ClawsyncConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/ClawsyncConfig.cmake ${CMAKE_BINARY_DIR}/ClawsyncConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Clawsync)
file(RELATIVE_PATH CLAWSYNC_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" CLAWSYNC_PC_TO_PREFIX "${CLAWSYNC_PC_TO_PREFIX}")
string(REPLACE ";" " " CLAWSYNC_PC_LIBS_PRIVATE "${CLAWSYNC_PRIVATE_LIBS}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/clawsync.pc.in ${CMAKE_BINARY_DIR}/clawsync.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/clawsync.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
